"""F8L606: FP4 codes are tagged as the bytes that they are packed in."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.tags import packed
from fp8load.writing.actions import Remake


def actions(context: Context, problem: Problem) -> Iterator[Remake]:
    """Tools pack FP6 in several ways, which a tag of U8 would leave open: such tensors stay."""
    meta = context.checkpoint.index.tensors.get(problem.tensor)
    if meta is not None:
        yield from packed(context, meta)


REPAIR = Repair(title="tags FP4 codes as the bytes that they are packed in", actions=actions)
