"""F8L103: of two configurations the one that is used stays."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.places import path_of
from fp8load.writing.actions import Edit, Omit


def actions(context: Context, problem: Problem) -> Iterator[Edit | Omit]:
    """The other one goes, with its file where that holds nothing else."""
    file, keys = path_of(problem.file)
    if problem.file != context.checkpoint.format.place and file in context.checkpoint.index.configs:
        yield Edit(file, keys, "remove") if keys else Omit(file)


REPAIR = Repair(
    title="keeps the configuration that is used, and removes the other", actions=actions,
    only_if="which of the two is right cannot be told from the files",
)  # fmt: skip
