"""F8L308: an entry that some readers do not understand is replaced by the full names of what it means."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.meant import meant
from fp8load.rules.repairs.places import edit_list
from fp8load.writing.actions import Edit


def actions(context: Context, problem: Problem) -> Iterator[Edit]:
    """Unquantized modules only: what is stored quantized the list may not name."""
    names = meant(context, problem.module)
    if names:
        yield from edit_list(context, "discard", problem.module)
        for name in names:
            yield from edit_list(context, "append", name)


REPAIR = Repair(title="writes the full names of the modules that the entry means", actions=actions)
