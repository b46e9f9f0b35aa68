"""F8L706: numbers that are bytes of exponents become the powers of two that were meant."""

from collections.abc import Iterator
from functools import partial

from fp8load.dtypes import DType, decode
from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.fits import dtype_for
from fp8load.values.encode import floats
from fp8load.writing.actions import Convert


def actions(context: Context, problem: Problem) -> Iterator[Convert]:
    """2 ** (number - 127), in F32 where F16 does not hold them all."""
    meta = context.checkpoint.index.tensors.get(problem.tensor)
    if meta is not None:
        dtype = dtype_for(context, meta.name, 127 - 24, 127 + 15)
        yield Convert(meta, dtype, partial(_powers, meta.dtype, dtype), f"2 ** (number - 127), in {dtype}")


def _powers(stored: DType, dtype: DType, data: bytes) -> bytes:
    import numpy as np

    exponents = decode(stored, data).astype(np.int32) - 127
    return floats(dtype, np.ldexp(np.float32(1), exponents))


REPAIR = Repair(title="restores the powers of two that the bytes mean", actions=actions)
