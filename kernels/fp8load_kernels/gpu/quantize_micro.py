"""Activation quantization to MXFP8, MXFP4 and NVFP4 on GPUs, in Triton: groups of 16 or 32 columns in one launch.

Codes, scales of groups and what they mean are those of `quantize_mx` and `quantize_nvfp4` to the bit. Floor: (bytes of
an element + 1) * M * K over the bandwidth of the memory, and for a level that is computed the input once more.

Shape letters: M rows (tokens), K columns, G = ceil(K / g) groups of g columns.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fp8load.dtypes import LARGEST_FINITE, DType
from fp8load.scheme import SharedExponent
from fp8load_kernels.gpu.decode import e8m0
from fp8load_kernels.gpu.launch import constants, kernel
from fp8load_kernels.gpu.quantize import TILE, _checked, _clamped, _largest, _magnitude
from fp8load_kernels.quantize_mx import carry_of, largest_exponent
from fp8load_kernels.quantized import FP8_DTYPES, SMALLEST_SCALE, Quantized


def quantize_mx(x_MK: torch.Tensor, dtype: DType, cols: int, exponent: SharedExponent) -> Quantized:
    """As `fp8load_kernels.quantize_mx.quantize_mx`, for F8_E4M3 and F4, and groups of a power of two.

    Rows may be strided, columns not: `ValueError`.
    """
    codes, scale, num_groups = _outputs(x_MK, dtype, cols)
    block = torch.empty_like(scale, dtype=torch.uint8)
    if x_MK.numel():
        together = max(1, TILE // cols)
        _mx(
            (triton.cdiv(x_MK.shape[0] * num_groups, together), 1, 1),
            (x_MK, codes, scale, block),
            (x_MK.stride(0), *x_MK.shape, num_groups, carry_of(dtype, exponent), largest_exponent(dtype),
             LARGEST_FINITE[dtype]),
            constants(GROUPS=together, COLS=cols, E2M1=dtype is DType.F4, num_warps=4),
        )  # fmt: skip
    return Quantized(codes=codes, dtype=dtype, scale=scale, cols=cols, block=block.view(torch.float8_e8m0fnu))


def quantize_nvfp4(x_MK: torch.Tensor, global_scale: torch.Tensor | None, cols: int) -> Quantized:
    """As `fp8load_kernels.quantize_nvfp4.quantize_nvfp4`, for groups of a power of two. `ValueError` as above."""
    codes, scale, num_groups = _outputs(x_MK, DType.F4, cols)
    block = torch.empty_like(scale, dtype=FP8_DTYPES[DType.F8_E4M3])
    level = torch.ones(1, 1, dtype=torch.float32, device=x_MK.device)
    given = _largest_bits(x_MK) if global_scale is None else global_scale.float()
    if x_MK.numel():
        together = max(1, TILE // cols)
        _nvfp4(
            (triton.cdiv(x_MK.shape[0] * num_groups, together), 1, 1),
            (x_MK, codes, scale, block, given, level),
            (x_MK.stride(0), *x_MK.shape, num_groups),
            constants(GROUPS=together, COLS=cols, COMPUTED=global_scale is None, num_warps=4),
        )
    elif global_scale is not None:
        level = given.reshape(1, 1).clamp(SMALLEST_SCALE, torch.finfo(torch.float32).max)
    return Quantized(codes=codes, dtype=DType.F4, scale=scale, cols=cols, block=block, level=level)


def _largest_bits(x_MK: torch.Tensor) -> torch.Tensor:
    """The largest magnitude of all, as bits of a float32: int32 [1]."""
    bits = torch.zeros(1, dtype=torch.int32, device=x_MK.device)
    if x_MK.numel():
        num_rows, num_cols = x_MK.shape
        width = min(8192, triton.next_power_of_2(num_cols))
        _largest(
            (num_rows, triton.cdiv(num_cols, width), 1),
            (x_MK, bits),
            (x_MK.stride(0), num_cols),
            constants(BLOCK=width),
        )
    return bits


def _outputs(x_MK: torch.Tensor, dtype: DType, cols: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    num_rows, num_cols = _checked(x_MK)
    if cols < 1 or cols & (cols - 1):
        raise ValueError(f"groups have a power of two of columns, not {cols}")
    num_groups = triton.cdiv(num_cols, cols)
    codes = x_MK.new_empty(num_rows, num_cols, dtype=FP8_DTYPES.get(dtype, torch.uint8))
    return codes, x_MK.new_empty(num_rows, num_groups, dtype=torch.float32), num_groups


@triton.jit
def _to_e2m1(y):
    """float32 -> codes of E2M1, one to a byte: to the nearest, ties to the even code, saturated; of a NaN a zero.

    Between two neighbours the even code takes the tie: a bound is beyond it before an odd code, and at it before an
    even one.
    """
    size = tl.abs(y)
    code = (size > 0.25).to(tl.int32) + (size >= 0.75).to(tl.int32) + (size > 1.25).to(tl.int32)
    code += (size >= 1.75).to(tl.int32) + (size > 2.5).to(tl.int32) + (size >= 3.5).to(tl.int32)
    code += (size > 5.0).to(tl.int32)
    return (code | ((y.to(tl.int32, bitcast=True) >> 28) & 8)).to(tl.uint8)


@triton.jit
def _group(x_ptr, stride, num_rows, num_cols, num_groups, GROUPS: tl.constexpr, COLS: tl.constexpr):
    """Groups of this program as float32 [GROUPS, COLS], bits of their largest magnitudes, where they are, and which of
    them there are."""
    pieces = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    # 32 bits are enough for the number of a group, and a division in 64 bits would cost more than all the rest.
    row, groups = pieces // num_groups, pieces % num_groups
    rows = row.to(tl.int64)
    cols = (groups * COLS)[:, None] + tl.arange(0, COLS)[None, :]
    inside = rows < num_rows
    mask = inside[:, None] & (cols < num_cols)
    x = tl.load(x_ptr + (rows * stride)[:, None] + cols, mask=mask, other=0.0).to(tl.float32)
    return x, tl.max(_magnitude(x), axis=1), (rows * num_cols)[:, None] + cols, mask, rows * num_groups + groups, inside


@kernel
def _mx(
    x_ptr, codes_ptr, scale_ptr, block_ptr, stride, num_rows, num_cols, num_groups, carry, top, largest,
    GROUPS: tl.constexpr, COLS: tl.constexpr, E2M1: tl.constexpr,
):  # fmt: skip
    x, bits, at, mask, piece, inside = _group(x_ptr, stride, num_rows, num_cols, num_groups, GROUPS, COLS)
    biased = ((bits + carry) >> 23) - top
    byte = tl.where(bits < 0x7F800000, tl.minimum(tl.maximum(biased, 0), 254), 255)
    scale = e8m0(byte)
    # A power of two's reciprocal is exact, subnormal ones too, and so the product is rounded as a quotient is.
    y = x * tl.div_rn(tl.zeros_like(scale) + 1.0, scale)[:, None]
    codes = _to_e2m1(y) if E2M1 else _clamped(y, largest).to(codes_ptr.dtype.element_ty)
    tl.store(codes_ptr + at, codes, mask=mask)
    tl.store(scale_ptr + piece, scale, mask=inside)
    tl.store(block_ptr + piece, byte.to(tl.uint8), mask=inside)


@kernel
def _nvfp4(
    x_ptr, codes_ptr, scale_ptr, block_ptr, given_ptr, level_ptr, stride, num_rows, num_cols, num_groups,
    GROUPS: tl.constexpr, COLS: tl.constexpr, COMPUTED: tl.constexpr,
):  # fmt: skip
    """COMPUTED: `given` has the bits of the largest magnitude of all, else the multiplier."""
    x, bits, at, mask, piece, inside = _group(x_ptr, stride, num_rows, num_cols, num_groups, GROUPS, COLS)
    level = tl.load(given_ptr)
    if COMPUTED:
        level = tl.div_rn(_nan_if_infinite(level), 2688.0)  # 6 * 448
    level = tl.where(level < 1.1754943508222875e-38, 1.1754943508222875e-38, level)
    level = tl.where(level > 3.4028234663852886e38, 3.4028234663852886e38, level)
    amax = _nan_if_infinite(bits)
    ratio = tl.div_rn(tl.div_rn(amax, tl.zeros_like(amax) + 6.0), tl.zeros_like(amax) + level)
    block = _clamped(ratio, 448.0).to(block_ptr.dtype.element_ty)
    scale = block.to(tl.float32) * level
    divisor = tl.zeros_like(x) + tl.where(scale == 0.0, 1.0, scale)[:, None]
    y = tl.where((scale == 0.0)[:, None], 0.0, tl.div_rn(x, divisor))
    tl.store(codes_ptr + at, _to_e2m1(y), mask=mask)
    tl.store(block_ptr + piece, block, mask=inside)
    tl.store(scale_ptr + piece, scale, mask=inside)
    if tl.program_id(0) == 0:
        tl.store(level_ptr, level)


@triton.jit
def _nan_if_infinite(bits):
    """Bits of a magnitude as float32."""
    return tl.where(bits < 0x7F800000, bits, 0x7FC00000).to(tl.float32, bitcast=True)
