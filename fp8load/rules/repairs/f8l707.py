"""F8L707: scales that are no powers of two become the next ones, and their weights are quantized again under them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from fp8load.dtypes import DType, decode
from fp8load.errors import Problem
from fp8load.formats.stacked import stored_name
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.fits import dtype_for
from fp8load.rules.repairs.requantized import requantized
from fp8load.rules.repairs.users import users
from fp8load.scheme import Role
from fp8load.values.encode import floats
from fp8load.writing.actions import Convert, Remake

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray


def actions(context: Context, problem: Problem) -> Iterator[Convert | Remake]:
    """In the scale's own dtype, so that it stays that of its siblings; in F32 where that may not hold the next power.
    Where one weight of those that share the scale cannot be quantized again, nothing is done."""
    meta = context.checkpoint.index.tensors.get(problem.tensor)
    if meta is None or not meta.dtype.is_wide_float:
        return
    pieces = context.checkpoint.lowered.pieces
    uses = users(context).get(meta.name, [])
    weights = dict.fromkeys(stored_name(use.module.tensors[Role.WEIGHT].name, pieces) for use in uses)
    said = "quantized again, with scales that are powers of two"
    remade = [requantized(context, weight, next_powers, said) for weight in weights]
    if None in remade or not remade:
        return
    yield from (change for change in remade if change is not None)
    dtype = dtype_for(context, meta.name, 0, 2.0**15)
    yield Convert(meta, dtype, partial(_rounded_up, meta.dtype, dtype), f"the next powers of two, in {dtype}")


def _rounded_up(stored: DType, dtype: DType, data: bytes) -> bytes:
    return floats(dtype, next_powers(decode(stored, data)))


def next_powers(scales: NDArray[Any]) -> NDArray[float32]:
    """The least powers of two that are no less: no code becomes too large. What is no scale stays."""
    import numpy as np

    mantissa, exponent = np.frexp(scales)
    powers = np.ldexp(np.float32(1), exponent - (mantissa == 0.5))
    return np.where((scales > 0) & np.isfinite(scales) & np.isfinite(powers), powers, scales).astype(np.float32)


REPAIR = Repair(
    title="rounds the scales up to powers of two, and quantizes the weights again", actions=actions,
    only_if="lossy: weights are rounded once more, and readers that take the scales as stored need nothing",
)  # fmt: skip
