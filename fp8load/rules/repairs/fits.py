"""Whether the dtype of a stored scale holds other numbers than those that are in it."""

from fp8load.dtypes import DType
from fp8load.rules.base import Context


def dtype_for(context: Context, tensor: str, least: float, most: float) -> DType:
    """A float scale's own dtype, which is that of its siblings; F32 for one in F16 whose elements, as measured, are not
    from `least` to `most`. The wider ones hold whatever a scale becomes."""
    dtype = context.checkpoint.index.tensors[tensor].dtype
    if dtype is not DType.F16:
        return dtype
    measured = {} if context.scales is None else context.scales.by_name
    parts = [measured.get(name) for name in context.checkpoint.lowered.pieces.get(tensor, (tensor,))]
    fits = all(part is not None and least <= part.smallest and part.largest <= most for part in parts)
    return dtype if fits else DType.F32
