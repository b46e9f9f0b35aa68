"""Activation quantization to FP8 by torch's own operations: what the kernels of GPUs are held against.

real = code * scale throughout. Shape letters: M rows (tokens), K columns, G groups of g columns.
"""

from __future__ import annotations

from typing import assert_never

import torch

from fp8load.dtypes import LARGEST_FINITE, DType
from fp8load.scheme import Granularity, PerBlock, PerChannel, PerGroup, PerTensor, PerToken, QuantSpec
from fp8load_kernels.quantized import SMALLEST_SCALE, Quantized, by_column, divided, group_amax, to_codes


def torch_static(x_MK: torch.Tensor, dtype: DType, scale: torch.Tensor) -> Quantized:
    """`quantize_static` on any device."""
    s_11 = scale.float().reshape(1, 1).clamp_min(SMALLEST_SCALE)
    return Quantized(codes=to_codes(x_MK.float() / s_11, dtype), dtype=dtype, scale=s_11, cols=x_MK.shape[1])


def torch_dynamic(x_MK: torch.Tensor, spec: QuantSpec, *, power_of_two: bool = False) -> Quantized:
    """`quantize_dynamic` on any device."""
    num_cols = x_MK.shape[1]
    cols = cols_of(spec.granularity, num_cols)
    x = x_MK.float()
    amax = group_amax(x, cols)
    if spec.granularity == PerTensor() and amax.numel():
        amax = amax.amax().reshape(1, 1)
    if spec.upper_bound is not None:
        amax = torch.where(amax > spec.upper_bound, spec.upper_bound, amax)  # NaNs stay
    scale = divided(amax, LARGEST_FINITE[spec.dtype]).clamp_min(SMALLEST_SCALE)
    if power_of_two:
        scale = round_up_to_power_of_two(scale)
    codes = to_codes(x / by_column(scale, cols, num_cols), spec.dtype)
    return Quantized(codes=codes, dtype=spec.dtype, scale=scale, cols=cols)


def round_up_to_power_of_two(scale: torch.Tensor) -> torch.Tensor:
    """The smallest power of two that is not smaller; exact, without logarithms. float32, positive."""
    mantissa, exponent = torch.frexp(scale)  # scale = mantissa * 2 ** exponent, 0.5 <= mantissa < 1
    return torch.ldexp(torch.ones_like(scale), torch.where(mantissa == 0.5, exponent - 1, exponent))


def cols_of(granularity: Granularity, num_cols: int) -> int:
    """Columns that share a scale within a row."""
    match granularity:
        case PerTensor() | PerToken() | PerChannel():
            return max(num_cols, 1)
        case PerGroup(cols=cols) | PerBlock(cols=cols):
            return cols
        case _:
            assert_never(granularity)
