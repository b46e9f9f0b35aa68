"""F8L012: total_size becomes the sum of the tensors' bytes."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.places import index_file
from fp8load.writing.actions import Edit


def actions(context: Context, _problem: Problem) -> Iterator[Edit]:
    """The sum over the tensors that are stored now."""
    file_of_index = index_file(context)
    if file_of_index is not None:
        yield Edit(file_of_index, ("metadata", "total_size"), "set", context.checkpoint.index.nbytes)


REPAIR = Repair(title="writes the sum of the tensors' bytes", actions=actions)
