"""F8L303: an entry that covers a quantized module is replaced by the names of what it covers rightly."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.formats.base import Ignored
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.once import once
from fp8load.rules.repairs.places import edit_list, stored_unquantized
from fp8load.writing.actions import Edit


def actions(context: Context, problem: Problem) -> Iterator[Edit]:
    """Full names of the unquantized modules that no other entry covers; said with the first module of an entry only,
    because an entry may cover ten thousands."""
    fmt = context.checkpoint.format
    claim = fmt.claim(problem.tensor.rpartition(".")[0])
    if isinstance(claim, Ignored):
        yield from edit_list(context, "discard", claim.by)
        if _too_wide(context).get(claim.by) == problem.tensor:
            yield from _replacement(context, claim.by)


@once
def _too_wide(context: Context) -> dict[str, str]:
    """Entry that covers a quantized module -> the first tensor that says so."""
    found: dict[str, str] = {}
    for problem in context.problems("F8L303"):
        claim = context.checkpoint.format.claim(problem.tensor.rpartition(".")[0])
        if isinstance(claim, Ignored):
            found.setdefault(claim.by, problem.tensor)
    return found


def _replacement(context: Context, wide: str) -> Iterator[Edit]:
    fmt = context.checkpoint.format
    others = [entry for entry in fmt.ignore if entry not in _too_wide(context)]
    for module in sorted(stored_unquantized(context)):
        if fmt.covers(wide, module) and not any(fmt.covers(entry, module) for entry in others):
            yield from edit_list(context, "append", module)


REPAIR = Repair(title="removes the entry from the ignore list", actions=actions)
