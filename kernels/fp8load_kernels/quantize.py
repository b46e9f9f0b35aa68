"""Quantize activations: per tensor, per token or per group of columns, with stored or computed scales.

Shape letters: M rows (tokens), K columns, G groups of g columns. real = code * scale throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import torch

from fp8load.dtypes import LARGEST_FINITE, DType
from fp8load.scheme import (
    Granularity,
    LinearScheme,
    PerBlock,
    PerChannel,
    PerGroup,
    PerTensor,
    PerToken,
    QuantSpec,
    ScaleRounding,
)

FP8_DTYPES: dict[DType, torch.dtype] = {
    DType.F8_E4M3: torch.float8_e4m3fn, DType.F8_E5M2: torch.float8_e5m2,
    DType.F8_E4M3FNUZ: torch.float8_e4m3fnuz, DType.F8_E5M2FNUZ: torch.float8_e5m2fnuz,
}  # fmt: skip
"""What activations are quantized to."""

SMALLEST_SCALE = torch.finfo(torch.float32).tiny
"""A computed scale is never smaller: rows of zeros give codes of zero, not 0 / 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """codes [M, K], and float32 scales that broadcast to them in groups of `cols`: [1, 1], [M, 1] or [M, G]."""

    codes: torch.Tensor
    scale: torch.Tensor
    cols: int

    def dequantize(self) -> torch.Tensor:
        """code * scale, float32 [M, K]."""
        return _by_group(self.codes.float(), self.scale, self.cols, divide=False)


def quantize_static(x_MK: torch.Tensor, dtype: DType, scale: torch.Tensor) -> Quantized:
    """Divide by one stored scale (float32, one element), clamp to the largest finite value, round to nearest even."""
    s_11 = scale.float().reshape(1, 1).clamp_min(SMALLEST_SCALE)
    return Quantized(codes=_codes(x_MK.float() / s_11, dtype), scale=s_11, cols=x_MK.shape[1])


def quantize_dynamic(x_MK: torch.Tensor, spec: QuantSpec, *, power_of_two: bool = False) -> Quantized:
    """Compute scales so that the largest magnitude of each piece becomes the largest finite code.

    `spec.granularity` is the piece: the tensor, a row, or a group of a row (PerBlock: its columns). `power_of_two`
    rounds scales up to a power of two, as E8M0 scales are. A NaN or infinity makes NaNs of its piece, as it should.
    """
    num_cols = x_MK.shape[1]
    cols = _cols(spec.granularity, num_cols)
    x = x_MK.float()
    amax = _amax(x, cols)
    if spec.granularity == PerTensor() and amax.numel():
        amax = amax.amax().reshape(1, 1)
    scale = (amax / LARGEST_FINITE[spec.dtype]).clamp_min(SMALLEST_SCALE)
    if power_of_two:
        scale = round_up_to_power_of_two(scale)
    return Quantized(codes=_codes(_by_group(x, scale, cols, divide=True), spec.dtype), scale=scale, cols=cols)


def quantize_input(x_MK: torch.Tensor, scheme: LinearScheme, static_scale: torch.Tensor | None) -> Quantized:
    """Quantize a layer's input as its scheme says. Raises `ValueError` for a weight-only scheme."""
    if scheme.input is None:
        raise ValueError(f"{scheme} does not quantize its input")
    if scheme.input_static and static_scale is not None:
        return quantize_static(x_MK, scheme.input.dtype, static_scale)
    return quantize_dynamic(x_MK, scheme.input, power_of_two=scheme.rounding is ScaleRounding.POWER_OF_TWO)


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


def _codes(x_MK: torch.Tensor, dtype: DType) -> torch.Tensor:
    largest = LARGEST_FINITE[dtype]
    return x_MK.clamp(-largest, largest).to(FP8_DTYPES[dtype])


def _amax(x_MK: torch.Tensor, cols: int) -> torch.Tensor:
    """Largest magnitude of each group of a row, [M, G]; the last group may be partial."""
    num_rows, num_cols = x_MK.shape
    num_groups = -(-num_cols // cols)
    padded = torch.nn.functional.pad(x_MK.abs(), (0, num_groups * cols - num_cols))
    return padded.view(num_rows, num_groups, cols).amax(dim=-1)


def _by_group(x_MK: torch.Tensor, scale: torch.Tensor, cols: int, *, divide: bool) -> torch.Tensor:
    if scale.shape[1] > 1:
        scale = scale.repeat_interleave(cols, dim=1)[:, : x_MK.shape[1]]
    return x_MK / scale if divide else x_MK * scale
