"""Weights under other scales than they were quantized with: each element is rounded once more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from fp8load.dtypes import DType, decode
from fp8load.formats.lowered import ModuleInfo
from fp8load.rules.base import Context
from fp8load.rules.repairs.users import users
from fp8load.scheme import PerTensor, Role, scale_shape
from fp8load.values.dequantize import decoded, dequantizer_of
from fp8load.values.encode import encoded
from fp8load.values.read import bands
from fp8load.writing.actions import Remake

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    from fp8load.checkpoint import Checkpoint

    NewScale = Callable[[NDArray[Any]], NDArray[float32]]

CHUNK = 4 << 20
"""Bytes of a weight that are read at once."""


def requantized(context: Context, weight: str, new_scale: NewScale, what: str) -> Remake | None:
    """A stored FP8 weight under the scales that `new_scale` makes of its modules' own; None for any other weight."""
    meta = context.checkpoint.index.tensors.get(weight)
    uses = users(context).get(weight, [])
    if meta is None or not meta.dtype.is_fp8 or not uses:
        return None
    modules = [use.module for use in uses]
    whole = sum(use.meta.nbytes for use in uses) == meta.nbytes
    if not whole or not all(_can_be_requantized(info) for info in modules):
        return None
    return Remake(meta, meta.dtype, meta.shape, partial(_every, context.checkpoint, modules, new_scale), what)


def _can_be_requantized(info: ModuleInfo) -> bool:
    """Whether headers say that each element has its scale; numbers are read when they are needed."""
    weight, scale = info.tensors[Role.WEIGHT], info.tensors.get(Role.WEIGHT_SCALE)
    if info.scheme is None or scale is None or info.transposed or len(weight.shape) != 2:
        return False
    granularity = info.scheme.weight.granularity
    count = 1 if granularity == PerTensor() else prod(scale_shape(granularity, weight.shape))
    return scale.num_elements == count and scale.dtype.is_wide_float


def _every(checkpoint: Checkpoint, modules: list[ModuleInfo], new_scale: NewScale) -> Iterator[bytes]:
    for info in modules:
        yield from _one(checkpoint, info, new_scale)


def _one(checkpoint: Checkpoint, info: ModuleInfo, new_scale: NewScale) -> Iterator[bytes]:
    """code * old / new, rounded; what is no number stays, and so does a block whose scale does."""
    import numpy as np

    made = dequantizer_of(checkpoint, info, transforms=False)
    if made is None or made.scale is None:
        raise ValueError(f"{info.name} has no scale")  # `requantized` has looked
    old = decode(made.scale_dtype, made.scale.tobytes()).astype(np.float32)
    with np.errstate(invalid="ignore"):  # zero stays zero: what is no scale makes no number of a code
        ratios = (old / new_scale(old)).astype("<f4").reshape(made.scale.shape)
    by_ratio = replace(made, scale=ratios.view("<u4"), scale_dtype=DType.F32, factor=None)
    weight = info.tensors[Role.WEIGHT]
    for begin, raw in bands(checkpoint, weight, columns_first=False, nbytes=CHUNK):
        stored = decoded(weight.dtype, raw)
        values = by_ratio.real(stored.copy(), np.arange(begin, begin + len(raw)))
        keeps = ~np.isfinite(values) | (values == stored)
        yield np.where(keeps, raw, encoded(weight.dtype, np.where(keeps, 0, values))).tobytes()
