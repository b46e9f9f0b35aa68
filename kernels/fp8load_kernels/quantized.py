"""What every way of quantizing an input gives: codes, and a scale for each group of columns.

Shape letters: M rows (tokens), K columns, G = ceil(K / g) groups of g columns, of which the last may be partial.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fp8load.dtypes import LARGEST_FINITE, DType
from fp8load_kernels.e2m1 import from_e2m1, to_e2m1
from fp8load_kernels.six_bits import SIX_BITS, from_six_bits, to_six_bits

FP8_DTYPES: dict[DType, torch.dtype] = {
    DType.F8_E4M3: torch.float8_e4m3fn, DType.F8_E5M2: torch.float8_e5m2,
    DType.F8_E4M3FNUZ: torch.float8_e4m3fnuz, DType.F8_E5M2FNUZ: torch.float8_e5m2fnuz,
}  # fmt: skip
"""The FP8 dtypes that activations are quantized to; the others are F6 and F4 (E2M1)."""

SMALLEST_SCALE = torch.finfo(torch.float32).tiny
"""A float scale that is computed is never smaller: rows of zeros give codes of zero, not 0 / 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """real = code * scale.

    codes  [M, K], of `dtype`; F6 and F4 as U8, one code to a byte (`fp8load_kernels.e2m1.pack` puts two into one)
    scale  float32, broadcasts to codes in groups of `cols`: [1, 1], [M, 1] or [M, G]; two levels are multiplied
    block  of MX and NVFP4 the scales of groups alone, as kernels read them: F8_E8M0 or F8_E4M3 [M, G]
    level  of NVFP4 the scale of these scales, float32 [1, 1]: scale = block * level
    """

    codes: torch.Tensor
    dtype: DType
    scale: torch.Tensor
    cols: int
    block: torch.Tensor | None = None
    level: torch.Tensor | None = None

    def dequantize(self) -> torch.Tensor:
        """code * scale, float32 [M, K]."""
        if self.dtype in SIX_BITS:
            values = from_six_bits(self.codes, self.dtype)
        else:
            values = from_e2m1(self.codes) if self.dtype is DType.F4 else self.codes.float()
        return values * by_column(self.scale, self.cols, values.shape[1])


def to_codes(x_MK: torch.Tensor, dtype: DType) -> torch.Tensor:
    """Scaled float32 values as codes: clamped to the largest finite one, then to the nearest, ties to even.

    A NaN stays one in FP8, and becomes a zero in F6 and F4, where its scale has to be the NaN.
    """
    if dtype in SIX_BITS:
        return to_six_bits(x_MK, dtype)
    if dtype is DType.F4:
        return to_e2m1(x_MK)
    largest = LARGEST_FINITE[dtype]
    return x_MK.clamp(-largest, largest).to(FP8_DTYPES[dtype])


def divided(x: torch.Tensor, number: float) -> torch.Tensor:
    """x / number, rounded once on every device: by a Python number, CUDA multiplies with the rounded reciprocal."""
    return x / torch.full((), number, dtype=x.dtype, device=x.device)


def group_amax(x_MK: torch.Tensor, cols: int) -> torch.Tensor:
    """Largest magnitude of each group of a row, [M, G]; NaN where there is one."""
    num_rows, num_cols = x_MK.shape
    num_groups = -(-num_cols // cols)
    padded = torch.nn.functional.pad(x_MK.abs(), (0, num_groups * cols - num_cols))
    return padded.view(num_rows, num_groups, cols).amax(dim=-1)


def by_column(scale: torch.Tensor, cols: int, num_cols: int) -> torch.Tensor:
    """Scales [1, 1] or [M, 1] as they are, and [M, G] repeated to [M, K]."""
    return scale.repeat_interleave(cols, dim=1)[:, :num_cols] if scale.shape[1] > 1 else scale
