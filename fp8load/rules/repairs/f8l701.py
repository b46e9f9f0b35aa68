"""F8L701: a scale that is NaN or infinite over a block of zeros becomes a sound one."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.sound import LOST, may_be_replaced, not_finite, replaced, zero
from fp8load.writing.actions import Convert


def actions(context: Context, problem: Problem) -> Iterator[Convert]:
    """0 / 0 while quantizing is where such scales come from: the weights of the block are zero under any scale."""
    change = replaced(context, problem, "not finite", wrong=not_finite, empty=zero)
    if change is not None:
        yield change


REPAIR = Repair(
    title="writes a sound scale over blocks of zeros", actions=actions, reads=True, may=may_be_replaced, unless=LOST
)
