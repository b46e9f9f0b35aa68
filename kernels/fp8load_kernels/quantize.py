"""Quantize activations as a scheme says: FP8 here, `quantize_mx` and `quantize_nvfp4` beside it.

FP8 is per tensor, per token or per group of columns, with stored or computed scales. real = code * scale throughout.
Shape letters: M rows (tokens), K columns, G groups of g columns.
"""

from __future__ import annotations

from typing import assert_never

import torch

from fp8load.dtypes import LARGEST_FINITE, DType
from fp8load.runtime.backend import No
from fp8load.scheme import Granularity, LinearScheme, PerBlock, PerChannel, PerGroup, PerTensor, PerToken, QuantSpec
from fp8load_kernels.quantizable import InputKind, input_kind, powers_of_two
from fp8load_kernels.quantize_mx import quantize_mx
from fp8load_kernels.quantize_nvfp4 import quantize_nvfp4
from fp8load_kernels.quantized import FP8_DTYPES, SMALLEST_SCALE, Quantized, by_column, divided, group_amax, to_codes

__all__ = [
    "FP8_DTYPES",
    "Quantized",
    "quantize_dynamic",
    "quantize_input",
    "quantize_mx",
    "quantize_nvfp4",
    "quantize_static",
    "round_up_to_power_of_two",
]


def quantize_static(x_MK: torch.Tensor, dtype: DType, scale: torch.Tensor) -> Quantized:
    """Divide by one stored scale (float32, one element), clamp to the largest finite value, round to nearest even."""
    s_11 = scale.float().reshape(1, 1).clamp_min(SMALLEST_SCALE)
    return Quantized(codes=to_codes(x_MK.float() / s_11, dtype), dtype=dtype, scale=s_11, cols=x_MK.shape[1])


def quantize_dynamic(x_MK: torch.Tensor, spec: QuantSpec, *, power_of_two: bool = False) -> Quantized:
    """Compute scales so that the largest magnitude of each piece becomes the largest finite code of FP8.

    `spec.granularity` is the piece: the tensor, a row, or a group of a row (PerBlock: its columns). `power_of_two`
    rounds scales up to a power of two, as DeepSeek's `ue8m0` does; MX has rules of its own, see `quantize_mx`. A NaN or
    infinity makes NaNs of its piece, as it should.
    """
    num_cols = x_MK.shape[1]
    cols = _cols(spec.granularity, num_cols)
    x = x_MK.float()
    amax = group_amax(x, cols)
    if spec.granularity == PerTensor() and amax.numel():
        amax = amax.amax().reshape(1, 1)
    scale = divided(amax, LARGEST_FINITE[spec.dtype]).clamp_min(SMALLEST_SCALE)
    if power_of_two:
        scale = round_up_to_power_of_two(scale)
    codes = to_codes(x / by_column(scale, cols, num_cols), spec.dtype)
    return Quantized(codes=codes, dtype=spec.dtype, scale=scale, cols=cols)


def quantize_input(
    x_MK: torch.Tensor,
    scheme: LinearScheme,
    static_scale: torch.Tensor | None,
    global_scale: torch.Tensor | None = None,
) -> Quantized:
    """Quantize a layer's input [M, K] as its scheme says.

    `static_scale` is the stored scale of the input, `global_scale` the stored multiplier of its block scales (NVFP4);
    both float32 of one element, None where they are computed from the input. Raises `ValueError` for a weight-only
    scheme and for one that `input_kind` refuses.
    """
    kind, spec = input_kind(scheme), scheme.input
    if isinstance(kind, No):
        raise ValueError(f"{scheme}: {kind.reason}")  # noqa: TRY004  # a scheme's value, not an argument's type
    if spec is None or kind is InputKind.NONE:
        raise ValueError(f"{scheme} does not quantize its input")
    match kind:
        case InputKind.MX:
            return quantize_mx(x_MK, spec.dtype, _cols(spec.granularity, x_MK.shape[1]), spec.exponent)
        case InputKind.NVFP4:
            return quantize_nvfp4(x_MK, global_scale, _cols(spec.granularity, x_MK.shape[1]))
        case InputKind.FP8:
            if scheme.input_static and static_scale is not None:
                return quantize_static(x_MK, spec.dtype, static_scale)
            return quantize_dynamic(x_MK, spec, power_of_two=powers_of_two(scheme, spec))
        case _:
            assert_never(kind)


def round_up_to_power_of_two(scale: torch.Tensor) -> torch.Tensor:
    """The smallest power of two that is not smaller; exact, without logarithms. float32, positive."""
    mantissa, exponent = torch.frexp(scale)  # scale = mantissa * 2 ** exponent, 0.5 <= mantissa < 1
    return torch.ldexp(torch.ones_like(scale), torch.where(mantissa == 0.5, exponent - 1, exponent))


def _cols(granularity: Granularity, num_cols: int) -> int:
    """Columns that share a scale within a row."""
    match granularity:
        case PerTensor() | PerToken() | PerChannel():
            return max(num_cols, 1)
        case PerGroup(cols=cols) | PerBlock(cols=cols):
            return cols
        case _:
            assert_never(granularity)
