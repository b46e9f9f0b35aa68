"""F8L706: numbers that are bytes of exponents become the powers of two that were meant."""

from collections.abc import Iterator

from fp8load.dtypes import DType, decode
from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.writing.actions import Convert


def actions(context: Context, problem: Problem) -> Iterator[Convert]:
    """2 ** (number - 127) in F32, which holds every one of them."""
    meta = context.checkpoint.index.tensors.get(problem.tensor)
    if meta is not None:
        dtype = meta.dtype
        yield Convert(meta, DType.F32, lambda data: _powers(dtype, data), "2 ** (number - 127), in F32")


def _powers(dtype: DType, data: bytes) -> bytes:
    import numpy as np

    exponents = decode(dtype, data).astype(np.int32) - 127
    return np.ldexp(np.float32(1), exponents).astype("<f4").tobytes()


REPAIR = Repair(title="restores the powers of two that the bytes mean", actions=actions)
