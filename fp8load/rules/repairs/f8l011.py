"""F8L011: bytes behind the last tensor are cut off."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Repair
from fp8load.writing.actions import Rewrite


def actions(context: Context, problem: Problem) -> Iterator[Rewrite]:
    """Only of files whose header can be read: holes and overlaps leave no tensor that could be trusted."""
    index = context.checkpoint.index
    if problem.severity is Severity.WARNING and (problem.file in index.files or problem.file in index.strays):
        yield Rewrite(problem.file, "written again, from its header to the end of its last tensor")


REPAIR = Repair(title="cuts off what follows the last tensor", actions=actions)
