"""A scale that becomes one number."""

from fp8load.dtypes import DType
from fp8load.index.index import TensorMeta
from fp8load.writing.actions import Convert


def constant(meta: TensorMeta, value: float) -> Convert:
    """Every element of a tensor as this number, in F32."""
    import numpy as np

    element = np.float32(value).tobytes()
    return Convert(meta, DType.F32, lambda data: element * (len(data) * 8 // meta.dtype.bits), f"{value:.6g}, in F32")
