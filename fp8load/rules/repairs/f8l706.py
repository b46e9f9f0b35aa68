"""F8L706: numbers that are bytes of exponents become the powers of two that were meant."""

from collections.abc import Iterator
from functools import partial

from fp8load.dtypes import DType, decode
from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.values.encode import floats
from fp8load.writing.actions import Convert


def actions(context: Context, problem: Problem) -> Iterator[Convert]:
    """2 ** (number - 127) in the scale's own dtype, which is that of its siblings; F16 does not hold them all."""
    meta = context.checkpoint.index.tensors.get(problem.tensor)
    if meta is not None:
        dtype = DType.F32 if meta.dtype is DType.F16 else meta.dtype
        yield Convert(meta, dtype, partial(_powers, meta.dtype, dtype), f"2 ** (number - 127), in {dtype}")


def _powers(stored: DType, dtype: DType, data: bytes) -> bytes:
    import numpy as np

    exponents = decode(stored, data).astype(np.int32) - 127
    return floats(dtype, np.ldexp(np.float32(1), exponents))


REPAIR = Repair(title="restores the powers of two that the bytes mean", actions=actions)
