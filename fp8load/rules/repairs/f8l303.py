"""F8L303: an entry that covers a quantized module is replaced by the names of what it covers rightly."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.formats.base import Ignored
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.once import once
from fp8load.rules.repairs.places import edit_list, stored_unquantized
from fp8load.writing.actions import Edit


def actions(context: Context, problem: Problem) -> Iterator[Edit]:
    """Full names of the unquantized modules that no other entry covers."""
    fmt = context.checkpoint.format
    claim = fmt.claim(problem.tensor.rpartition(".")[0])
    if isinstance(claim, Ignored):
        known = _replaced(context)
        if claim.by not in known:
            known[claim.by] = tuple(_replacement(context, claim.by))
        yield from known[claim.by]


@once
def _replaced(_context: Context) -> dict[str, tuple[Edit, ...]]:
    """Entries with their edits, as they are asked for."""
    return {}


def _replacement(context: Context, wide: str) -> Iterator[Edit]:
    fmt = context.checkpoint.format
    yield from edit_list(context, "discard", wide)
    others = [entry for entry in fmt.ignore if entry != wide]
    for module in sorted(stored_unquantized(context)):
        if fmt.covers(wide, module) and not any(fmt.covers(entry, module) for entry in others):
            yield from edit_list(context, "append", module)


REPAIR = Repair(title="removes the entry from the ignore list", actions=actions)
