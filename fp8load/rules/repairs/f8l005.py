"""F8L005: the index is completed, and a copy that it does not point to is left out."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.places import index_file
from fp8load.writing.actions import Drop, Edit


def actions(context: Context, problem: Problem) -> Iterator[Drop | Edit]:
    """Without an index nothing says which of two copies counts, and what lies in a stray file may not belong here."""
    index = context.checkpoint.index
    name, file = problem.tensor, problem.file
    file_of_index = index_file(context)
    if index.declared is None or file_of_index is None:
        return
    copies = [meta for meta in index.duplicates.get(name, ()) if meta.file == file]
    if copies and index.declared.get(name) == index.tensors[name].file:
        yield Drop(copies[0])
    elif name not in index.declared and name in index.tensors:
        yield Edit(file_of_index, ("weight_map", name), "set", file)


REPAIR = Repair(title="completes the index, or drops the copy that it does not name", actions=actions)
