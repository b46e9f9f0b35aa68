"""Activation quantization on GPUs, in Triton: one launch, the input read once, codes and scales written once.

Floor: (bytes of an element + 1) * M * K over the bandwidth of the memory. The largest magnitude of a row stays in
registers, so that a row is not read a second time. Scales and codes are those of `fp8load_kernels.torch_quantize` to
the bit: x / scale is x times the reciprocal, corrected once by its own remainder (Markstein), which costs three
operations and rounds as a division does.

Shape letters: M rows (tokens), K columns, G = ceil(K / g) groups of g columns.
"""

from __future__ import annotations

from math import inf

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents

from fp8load.dtypes import LARGEST_FINITE, DType
from fp8load_kernels.gpu.launch import constants, kernel, overlaps
from fp8load_kernels.quantized import FP8_DTYPES, Quantized

LONGEST_ROW = 1 << 16
"""Columns that a program keeps in registers."""

TILE = 1 << 11
"""Elements that a program of `_groups` looks at: 16 groups of 128, 16 elements to a thread."""

MANY_ROWS = 256
"""Rows that fill the GPU. Then 128 elements to a thread are best, and fewer, more at once, where rows are few: measured
on an H200, see docs/benchmarks."""


def quantize_rows(
    x_MK: torch.Tensor, dtype: DType, *, power_of_two: bool = False, upper: float | None = None
) -> Quantized:
    """One scale for each row: codes [M, K] and float32 [M, 1].

    `upper`: no scale is computed of a larger magnitude (fbgemm's `activation_scale_ub`); what is larger becomes the
    largest code. Rows may be strided, columns not: `ValueError`. So for rows of more than
    `LONGEST_ROW` columns.
    """
    num_rows, num_cols = _checked(x_MK)
    if num_cols > LONGEST_ROW:
        raise ValueError(f"rows of up to {LONGEST_ROW} columns are quantized in one piece, not {num_cols}")
    codes, scale = _outputs(x_MK, dtype, 1)
    if x_MK.numel():
        block = triton.next_power_of_2(num_cols)
        _rows(
            (num_rows, 1, 1),
            (x_MK, codes, scale),
            (x_MK.stride(0), num_cols, LARGEST_FINITE[dtype], inf if upper is None else upper),
            constants(
                BLOCK=block,
                POWER_OF_TWO=power_of_two,
                BOUNDED=upper is not None,
                EARLY=overlaps(x_MK.device),
                num_warps=max(4, block // 4096) if num_rows >= MANY_ROWS else min(32, max(1, block // 1024)),
            ),
        )
    return Quantized(codes=codes, dtype=dtype, scale=scale, cols=max(num_cols, 1))


def quantize_groups(
    x_MK: torch.Tensor, dtype: DType, cols: int = 128, *, power_of_two: bool = False, scale: torch.Tensor | None = None
) -> Quantized:
    """One scale for each group of `cols` neighbours, a power of two: codes [M, K] and float32 [M, G].

    `scale`: where to write the scales, a [M, G] view with any strides, so that a product gets the layout that it wants
    without a transposition; what is beyond the view is not written. Rows may be strided, columns not: `ValueError`.
    """
    num_rows, num_cols = _checked(x_MK)
    if cols < 1 or cols & (cols - 1):
        raise ValueError(f"groups have a power of two of columns, not {cols}")
    num_groups = -(-num_cols // cols)
    codes, fresh = _outputs(x_MK, dtype, num_groups)
    written = fresh if scale is None else scale
    if written.shape != (num_rows, num_groups) or written.dtype != torch.float32:
        raise ValueError(f"scales are float32 {[num_rows, num_groups]}, not {written.dtype} {list(written.shape)}")
    if x_MK.numel():
        together = max(1, TILE // cols)
        _groups(
            (triton.cdiv(num_rows * num_groups, together), 1, 1),
            (x_MK, codes, written),
            (x_MK.stride(0), *written.stride(), num_rows, num_cols, num_groups, LARGEST_FINITE[dtype]),
            constants(GROUPS=together, COLS=cols, POWER_OF_TWO=power_of_two, EARLY=overlaps(x_MK.device), num_warps=4),
        )
    return Quantized(codes=codes, dtype=dtype, scale=written, cols=cols)


def quantize_tensor(x_MK: torch.Tensor, dtype: DType, scale: torch.Tensor) -> Quantized:
    """Divide by one stored scale, float32 of one element: codes [M, K] and the scale [1, 1]. `ValueError` as above."""
    num_rows, num_cols = _checked(x_MK)
    codes = x_MK.new_empty(num_rows, num_cols, dtype=FP8_DTYPES[dtype])
    if x_MK.numel():
        block = min(4096, triton.next_power_of_2(num_cols))
        _static(
            (num_rows, triton.cdiv(num_cols, block), 1),
            (x_MK, codes, scale),
            (x_MK.stride(0), num_cols, LARGEST_FINITE[dtype]),
            constants(BLOCK=block, EARLY=overlaps(x_MK.device), num_warps=4),
        )
    return Quantized(codes=codes, dtype=dtype, scale=scale.reshape(1, 1), cols=max(num_cols, 1))


def largest_scale(x_MK: torch.Tensor, dtype: DType, *, power_of_two: bool = False) -> torch.Tensor:
    """The scale of a whole tensor, float32 [1]: of the largest of its rows' magnitudes, in two launches."""
    num_rows, num_cols = _checked(x_MK)
    amax = torch.zeros(1, dtype=torch.int32, device=x_MK.device)
    scale = torch.empty(1, dtype=torch.float32, device=x_MK.device)
    if x_MK.numel():
        block = min(8192, triton.next_power_of_2(num_cols))
        _largest(
            (num_rows, triton.cdiv(num_cols, block), 1),
            (x_MK, amax),
            (x_MK.stride(0), num_cols),
            constants(BLOCK=block),
        )
    _scale_of((1, 1, 1), (amax, scale), (LARGEST_FINITE[dtype],), constants(POWER_OF_TWO=power_of_two, num_warps=1))
    return scale


def _checked(x_MK: torch.Tensor) -> tuple[int, int]:
    if x_MK.dim() != 2 or (x_MK.shape[1] > 1 and x_MK.stride(1) != 1):
        raise ValueError(
            f"an input is [M, K] with columns next to each other, not {list(x_MK.shape)} with strides "
            f"{list(x_MK.stride())}: call contiguous()"
        )
    return x_MK.shape[0], x_MK.shape[1]


def _outputs(x_MK: torch.Tensor, dtype: DType, num_groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    shape = x_MK.shape
    codes = torch.empty(shape, dtype=FP8_DTYPES[dtype], device=x_MK.device)
    return codes, torch.empty(shape[0], num_groups, dtype=torch.float32, device=x_MK.device)


@triton.jit
def _magnitude(x):
    """|x| as bits of its own width, which grow with it, NaNs being the largest; in half the registers of floats."""
    if x.dtype.primitive_bitwidth == 16:
        bits = x.to(tl.int16, bitcast=True) & 0x7FFF
    else:
        bits = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return bits


@triton.jit
def _number(bits, dtype: tl.constexpr):
    """The float32 that magnitude bits of `dtype` stand for; a reduction has widened them."""
    if dtype.primitive_bitwidth == 16:
        value = bits.to(tl.int16).to(dtype, bitcast=True).to(tl.float32)
    else:
        value = bits.to(tl.float32, bitcast=True)
    return value


@triton.jit
def _scale(amax, largest, POWER_OF_TWO: tl.constexpr):
    """amax / largest, at least the smallest normal float; a NaN stays one."""
    scale = tl.div_rn(amax, tl.zeros_like(amax) + largest)
    scale = tl.where(scale < 1.1754943508222875e-38, 1.1754943508222875e-38, scale)
    if POWER_OF_TWO:
        rounded = (scale.to(tl.int32, bitcast=True) + 0x7FFFFF) & 0x7F800000
        scale = tl.where(scale < float("inf"), rounded.to(tl.float32, bitcast=True), scale)
    return scale


@triton.jit
def _divided(x, scale, factor):
    """x / scale, rounded once, for |x| up to some thousand scales; `factor` is 1 / scale.

    Converting to FP8 saturates. An infinity becomes a NaN: its scale is infinite, so it is one in the end anyhow.
    """
    y = x * factor
    return tl.fma(tl.fma(-y, scale, x), factor, y)


@kernel
def _rows(
    x_ptr, codes_ptr, scale_ptr, stride, num_cols, largest, upper,
    BLOCK: tl.constexpr, POWER_OF_TWO: tl.constexpr, BOUNDED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        gdc_launch_dependents()
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < num_cols
    x = tl.load(x_ptr + row * stride + cols, mask=mask, other=0.0)
    amax = _number(tl.max(_magnitude(x), axis=0), x.dtype)
    if BOUNDED:
        amax = tl.where(amax > upper, upper, amax)
    scale = _scale(amax, largest, POWER_OF_TWO)
    wide = x.to(tl.float32)
    y = _divided(wide, tl.zeros_like(wide) + scale, tl.zeros_like(wide) + tl.div_rn(1.0, scale))
    if BOUNDED:
        y = _clamped(y, largest)
    tl.store(codes_ptr + row * num_cols + cols, y.to(codes_ptr.dtype.element_ty), mask=mask)
    tl.store(scale_ptr + row, scale)


@kernel
def _groups(
    x_ptr, codes_ptr, scale_ptr, stride, scale_stride_m, scale_stride_g, num_rows, num_cols, num_groups, largest,
    GROUPS: tl.constexpr, COLS: tl.constexpr, POWER_OF_TWO: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        gdc_launch_dependents()
    pieces = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    # 32 bits are enough for the number of a group, and a division in 64 bits would cost more than all the rest.
    row, groups = pieces // num_groups, pieces % num_groups
    rows = row.to(tl.int64)
    cols = (groups * COLS)[:, None] + tl.arange(0, COLS)[None, :]
    mask = (rows < num_rows)[:, None] & (cols < num_cols)
    x = tl.load(x_ptr + (rows * stride)[:, None] + cols, mask=mask, other=0.0)
    amax = _number(tl.max(_magnitude(x), axis=1), x.dtype)
    scale = _scale(amax, largest, POWER_OF_TWO)
    factor = tl.div_rn(tl.zeros_like(scale) + 1.0, scale)
    wide = x.to(tl.float32)
    y = _divided(wide, tl.zeros_like(wide) + scale[:, None], tl.zeros_like(wide) + factor[:, None])
    tl.store(codes_ptr + (rows * num_cols)[:, None] + cols, y.to(codes_ptr.dtype.element_ty), mask=mask)
    tl.store(scale_ptr + rows * scale_stride_m + groups * scale_stride_g, scale, mask=rows < num_rows)


@triton.jit
def _clamped(y, largest):
    y = tl.where(y > largest, largest, y)
    return tl.where(y < -largest, -largest, y)


@kernel
def _static(x_ptr, codes_ptr, scale_ptr, stride, num_cols, largest, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    if EARLY:
        gdc_launch_dependents()
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = cols < num_cols
    scale = tl.load(scale_ptr)
    scale = tl.where(scale < 1.1754943508222875e-38, 1.1754943508222875e-38, scale)
    x = tl.load(x_ptr + row * stride + cols, mask=mask, other=0.0).to(tl.float32)
    factor = tl.div_rn(1.0, scale)
    # Far beyond the largest code there is no remainder, and none is needed.
    near = tl.abs(x) <= scale * (2 * largest)
    y = _divided(x, tl.zeros_like(x) + scale, tl.zeros_like(x) + factor)
    y = _clamped(tl.where(near, y, x * factor), largest)
    tl.store(codes_ptr + row * num_cols + cols, y.to(codes_ptr.dtype.element_ty), mask=mask)


@kernel
def _largest(x_ptr, amax_ptr, stride, num_cols, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * stride + cols, mask=cols < num_cols, other=0.0)
    amax = _number(tl.max(_magnitude(x), axis=0), x.dtype)
    tl.atomic_max(amax_ptr, amax.to(tl.int32, bitcast=True))  # bits of floats without a sign grow with them


@kernel
def _scale_of(amax_ptr, scale_ptr, largest, POWER_OF_TWO: tl.constexpr):
    tl.store(scale_ptr, _scale(tl.load(amax_ptr).to(tl.float32, bitcast=True), largest, POWER_OF_TWO))
