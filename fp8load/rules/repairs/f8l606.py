"""F8L606: FP4 codes are tagged as the bytes that they are packed in."""

from collections.abc import Iterator
from functools import partial

from fp8load.dtypes import DType
from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.writing.actions import Remake
from fp8load.writing.shard import pieces


def actions(context: Context, problem: Problem) -> Iterator[Remake]:
    """The same bytes under U8 [N, K/2], where rows are whole bytes. Tools pack FP6 in several ways, which a tag of U8
    would leave open."""
    meta = context.checkpoint.index.tensors.get(problem.tensor)
    if meta is not None and meta.dtype is DType.F4 and meta.shape and meta.shape[-1] % 2 == 0:
        shape = (*meta.shape[:-1], meta.shape[-1] // 2)
        yield Remake(meta, DType.U8, shape, partial(pieces, context.checkpoint.source, meta),
                     f"the same bytes as U8 {list(shape)}")  # fmt: skip


REPAIR = Repair(title="tags FP4 codes as the bytes that they are packed in", actions=actions)
