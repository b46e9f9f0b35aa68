"""A scale that becomes one number."""

from fp8load.dtypes import DType, decode
from fp8load.index.index import TensorMeta
from fp8load.values.encode import floats
from fp8load.writing.actions import Convert


def constant(meta: TensorMeta, value: float) -> Convert:
    """Every element of a float tensor as this number, in its own dtype where that holds it, else in F32: a scale in
    another dtype than its siblings is no better than a wrong one."""
    import numpy as np

    number = np.array([value], np.float32)
    own = meta.dtype.is_wide_float and decode(meta.dtype, floats(meta.dtype, number))[0] == number[0]
    dtype = meta.dtype if own else DType.F32
    element = floats(dtype, number)
    return Convert(meta, dtype, lambda data: element * (len(data) * 8 // meta.dtype.bits), f"{value:.6g}, in {dtype}")
