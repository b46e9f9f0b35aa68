"""F8L702: a scale that is zero or negative over a block of zeros becomes a sound one."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.sound import LOST, may_be_replaced, not_positive, replaced, zero_or_nan
from fp8load.writing.actions import Convert


def actions(context: Context, problem: Problem) -> Iterator[Convert]:
    """The weights of the block are zero under any scale; NaN among them is F8L801's. One with other weights is lost:
    nobody knows its scale."""
    change = (
        None
        if not _may(context, problem)
        else replaced(context, problem, "not positive", wrong=not_positive, empty=zero_or_nan)
    )
    if change is not None:
        yield change


def _may(context: Context, problem: Problem) -> bool:
    """Not of exponents over weights: what they were is lost, and E8M0 has nothing that is not positive."""
    stats = None if context.scales is None else context.scales.by_name.get(problem.tensor)
    return stats is not None and stats.first_not_positive >= 0 and may_be_replaced(context, problem)


REPAIR = Repair(title="writes a sound scale over blocks of zeros", actions=actions, reads=True, may=_may, unless=LOST)
