"""The same bytes under another dtype."""

from collections.abc import Iterator
from functools import partial

from fp8load.dtypes import DType
from fp8load.index.index import TensorMeta
from fp8load.rules.base import Context
from fp8load.writing.actions import Remake
from fp8load.writing.shard import pieces


def packed(context: Context, meta: TensorMeta) -> Iterator[Remake]:
    """FP4 codes [N, K] as U8 [N, K/2], where rows are whole bytes."""
    if meta.dtype is DType.F4 and meta.shape and meta.shape[-1] % 2 == 0:
        shape = (*meta.shape[:-1], meta.shape[-1] // 2)
        data = partial(pieces, context.checkpoint.source, meta)
        yield Remake(meta, DType.U8, shape, data, f"the same bytes as U8 {list(shape)}")
