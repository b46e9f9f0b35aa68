"""F8L004: the entry of index.json is pointed to the file that holds the tensor."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.places import index_file
from fp8load.writing.actions import Edit


def actions(context: Context, problem: Problem) -> Iterator[Edit]:
    """Where a file of the checkpoint holds the tensor; one that is in no shard cannot be found."""
    meta = context.checkpoint.index.tensors.get(problem.tensor)
    file_of_index = index_file(context)
    if meta is not None and file_of_index is not None:
        yield Edit(file_of_index, ("weight_map", problem.tensor), "set", meta.file)


REPAIR = Repair(title="points the index to the file that holds the tensor", actions=actions)
