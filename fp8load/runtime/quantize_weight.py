"""Weights of 16 or 32 bits as codes and scales: what a trainer's tensors become in a layer that holds FP8.

real = code * scale. The scale is the largest magnitude over the dtype's largest finite number, divided in float32;
codes are of value / scale in float32, to the nearest, ties to even. So the largest magnitude of each block has the
largest code. Powers of two are rounded up, so that nothing saturates. A block of zeros has the scale 1, because a zero
erases its block (F8L702); a scale is never subnormal, so that a GPU does not flush it.

Shape letters: N rows, K columns, n x k the grid of scales, bn x bk a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from fp8load.dtypes import LARGEST_FINITE, DType
from fp8load.errors import LoadError, Problem
from fp8load.runtime.dtypes import torch_dtype
from fp8load.scheme import PerBlock, PerChannel, PerGroup, PerTensor, QuantSpec, ScaleRounding, scale_shape

BAND_NUM_ELEMENTS = 1 << 22
"""Rows are taken in bands of about so many elements: what is computed in float32 is never a whole weight."""

CPU_BAND_NUM_ELEMENTS = 1 << 20
"""On a CPU, where a band of 4 MiB stays in the cache: up to three times as fast as the larger one."""

_EXPONENTS = (DType.U8, DType.F8_E8M0)
_BIAS = 127


class QuantizedWeight(NamedTuple):
    """Codes [N, K] in the scheme's dtype, and scales in their canonical shape, F32 or exponents (U8, F8_E8M0)."""

    codes: torch.Tensor
    scale: torch.Tensor


def quantize_weight(
    w_NK: torch.Tensor,
    spec: QuantSpec,
    *,
    rounding: ScaleRounding = ScaleRounding.ANY,
    name: str = "",
    is_finite: bool = False,
) -> QuantizedWeight:
    """A weight [N, K] of any float of 16 bits or more as `spec` stores it, on the same device.

    Scales are [1], [N, 1], [ceil(N/bn), ceil(K/bk)] or [N, ceil(K/g)]: F32, or the bytes of exponents where that is the
    spec's scale dtype. Other float dtypes of scales are those of files, and F32 in memory. `rounding` says whether they
    are powers of two; exponents always are. `name` is for messages. `is_finite`: it was asked before, and the device
    is not waited for. Raises `LoadError` FILL726 for a NaN or an infinity, and `ValueError` for a spec that is not of
    FP8 with one scale dtype.
    """
    exponents = spec.scale_dtype in _EXPONENTS
    if spec.dtype not in LARGEST_FINITE or not spec.dtype.is_fp8 or spec.scale_dtype is None:
        raise ValueError(f"weights are quantized to FP8 with scales, not to {spec}")
    block = _block(spec, w_NK)
    largest = LARGEST_FINITE[spec.dtype]
    amax = _amax(w_NK, block)
    if not is_finite and not bool(torch.isfinite(amax).all()):
        refuse_not_finite(w_NK, name)
    s_nk = _scales(amax, largest, power_of_two=exponents or rounding is ScaleRounding.POWER_OF_TWO)
    codes = torch.empty(w_NK.shape, dtype=torch_dtype(spec.dtype), device=w_NK.device)
    for rows, grid_rows in _bands(w_NK, block):
        factors = s_nk[grid_rows].repeat_interleave(block.rows, 0)[: rows.stop - rows.start]
        factors = factors.repeat_interleave(block.cols, 1)[:, : w_NK.shape[1]] if s_nk.shape[1] > 1 else factors
        codes[rows] = (w_NK[rows].float() / factors).clamp_(-largest, largest).to(codes.dtype)
    scale = s_nk.reshape(scale_shape(spec.granularity, tuple(w_NK.shape)))
    return QuantizedWeight(codes, _as_exponents(scale, spec.scale_dtype) if exponents else scale)


def all_finite(w: torch.Tensor) -> torch.Tensor:
    """Whether a weight [..., N, K] has neither a NaN nor an infinity, as a bool tensor. Looks at a band at a time."""
    flat = w.detach().reshape(-1, w.shape[-1])
    return torch.isfinite(_amax(flat, PerBlock(max(len(flat), 1), max(flat.shape[1], 1)))).all()


def _block(spec: QuantSpec, w_NK: torch.Tensor) -> PerBlock:
    """The block that shares a scale, in rows and columns."""
    num_rows, num_cols = (max(size, 1) for size in w_NK.shape)
    match spec.granularity:
        case PerTensor():
            return PerBlock(num_rows, num_cols)
        case PerChannel():
            return PerBlock(1, num_cols)
        case PerBlock() as block:
            return block
        case PerGroup(cols=cols):
            return PerBlock(1, cols)
        case _:
            raise ValueError(f"no weight is quantized {spec.granularity}")


def _bands(w_NK: torch.Tensor, block: PerBlock) -> Iterator[tuple[slice, slice]]:
    """Bands of rows, each with its rows of the grid: whole blocks of rows, or rows of one where a block is larger."""
    num_rows, num_cols = w_NK.shape
    most = min(BAND_NUM_ELEMENTS, CPU_BAND_NUM_ELEMENTS) if w_NK.device.type == "cpu" else BAND_NUM_ELEMENTS
    step = max(1, most // max(num_cols, 1))
    for first in range(0, num_rows, block.rows) if block.rows > step else ():
        last = min(first + block.rows, num_rows)
        at = first // block.rows
        yield from ((slice(row, min(row + step, last)), slice(at, at + 1)) for row in range(first, last, step))
    step = step // block.rows * block.rows
    for first in range(0, num_rows, step) if step else ():
        last = min(first + step, num_rows)
        yield slice(first, last), slice(first // block.rows, -(-last // block.rows))


def _amax(w_NK: torch.Tensor, block: PerBlock) -> torch.Tensor:
    """The largest magnitude of each block, float32 [n, k]; 0 of an empty one."""
    num_rows, num_cols = w_NK.shape
    grid = scale_shape(block, (max(num_rows, 1), max(num_cols, 1)))
    amax = torch.zeros(grid, dtype=torch.float32, device=w_NK.device)
    for rows, grid_rows in _bands(w_NK, block):
        x = w_NK[rows].float().abs()
        if not x.numel():
            continue
        by_row = torch.nn.functional.pad(x, (0, grid[1] * block.cols - num_cols)).view(len(x), grid[1], -1).amax(-1)
        height = min(block.rows, len(x)) if grid_rows.stop - grid_rows.start == 1 else block.rows
        missing = height * (grid_rows.stop - grid_rows.start) - len(x)
        tall = torch.nn.functional.pad(by_row, (0, 0, 0, missing)).view(-1, height, grid[1]).amax(1)
        amax[grid_rows] = torch.maximum(amax[grid_rows], tall)  # both keep NaNs
    return amax


def _scales(amax: torch.Tensor, largest: float, *, power_of_two: bool) -> torch.Tensor:
    """float32, positive and normal. Divided by a tensor: by a Python number CUDA multiplies with its reciprocal."""
    scale = (amax / torch.full((), largest, device=amax.device)).clamp_min(torch.finfo(torch.float32).tiny)
    scale = torch.where(amax == 0, 1.0, scale)
    if not power_of_two:
        return scale
    mantissa, exponent = torch.frexp(scale)  # scale = mantissa * 2 ** exponent, 0.5 <= mantissa < 1
    return torch.ldexp(torch.ones_like(scale), torch.where(mantissa == 0.5, exponent - 1, exponent))


def _as_exponents(scale: torch.Tensor, dtype: DType) -> torch.Tensor:
    """Powers of two as bytes: 2 ** (byte - 127)."""
    _, exponent = torch.frexp(scale)
    return (exponent - 1 + _BIAS).to(torch.uint8).view(torch_dtype(dtype))


def refuse_not_finite(w: torch.Tensor, name: str) -> None:
    """Raise `LoadError` FILL726 for a weight that is not `all_finite`. Its place counts in rows [N, K]."""
    w_NK = w.detach().reshape(-1, w.shape[-1])
    bad = (~torch.isfinite(w_NK)).nonzero()
    at = bad[0].tolist()
    raise LoadError(Problem(
        code="FILL726", message="a weight with a NaN or an infinity cannot be quantized", tensor=name,
        expected="finite numbers", got=f"{w_NK[tuple(at)].item()} at {at}, {len(bad)} in all",
        hint="the old weight stays: look for the step of training that made it",
    ))  # fmt: skip
