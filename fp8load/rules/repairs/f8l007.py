"""F8L007: the header gets the metadata that readers look for."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.index.layout import FREE_METADATA
from fp8load.rules.base import Context, Repair
from fp8load.writing.actions import SetMetadata


def actions(context: Context, problem: Problem) -> Iterator[SetMetadata]:
    """Strings, and a format; what is there under other keys stays."""
    if problem.file in context.checkpoint.index.files:
        for key, value in FREE_METADATA.items():
            yield SetMetadata(problem.file, key, value)


REPAIR = Repair(title="writes the header's metadata", actions=actions)
