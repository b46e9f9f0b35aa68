"""F8L304: an entry that is a part of names is replaced by the full names of what it covers."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.meant import meant
from fp8load.rules.repairs.places import edit_list
from fp8load.writing.actions import Edit


def actions(context: Context, problem: Problem) -> Iterator[Edit]:
    """In its own dialect the list says the same afterwards. A full name that begins a longer one is still noted: there
    is no better way to write it."""
    names = meant(context, problem.module) if problem.severity is not Severity.INFO else []
    if names:
        yield from edit_list(context, "discard", problem.module)
        for name in names:
            yield from edit_list(context, "append", name)


REPAIR = Repair(title="writes the full names of the modules that the entry covers", actions=actions)
