"""NVFP4: E2M1 elements, an E4M3 scale for each group of 16, and one float32 scale of these scales.

real = code * block scale * global scale, all arithmetic in float32. GPU kernels multiply by approximate reciprocals
instead of dividing, so a value at a tie may get the neighbouring code there. Sources: the formats of compressed-tensors
(`nvfp4-pack-quantized`, which stores the reciprocal of the global scale) and ModelOpt (`NVFP4`, which stores it).
Shape letters: M rows (tokens), K columns, G = ceil(K / g) groups of g columns.
"""

from __future__ import annotations

import torch

from fp8load.dtypes import LARGEST_FINITE, DType
from fp8load_kernels.quantized import SMALLEST_SCALE, Quantized, by_column, divided, group_amax, to_codes

NVFP4_COLS = 16
"""The one group size of the format."""

_LARGEST_CODE, _LARGEST_BLOCK = LARGEST_FINITE[DType.F4], LARGEST_FINITE[DType.F8_E4M3]


def quantize_nvfp4(x_MK: torch.Tensor, global_scale: torch.Tensor | None = None, cols: int = NVFP4_COLS) -> Quantized:
    """x [M, K] -> F4 codes [M, K] and float32 scales [M, G], each the product of a block scale and the global one.

    `global_scale` is the multiplier, one element; None: `nvfp4_global_scale` of x. Elements are x / scale to nearest
    even, saturated at 6. A block whose scale underflows to zero becomes zeros; one with a NaN or infinity, NaNs.
    """
    x = x_MK.float()
    s_11 = nvfp4_global_scale(x) if global_scale is None else _in_range(global_scale.float().reshape(1, 1))
    block = nvfp4_block_scale(x, s_11, cols)
    scale = block.float() * s_11
    wide = by_column(scale, cols, x.shape[1])
    ratio = torch.where(wide == 0, torch.zeros_like(x), x / wide)
    codes = to_codes(ratio, DType.F4)
    return Quantized(codes=codes, dtype=DType.F4, scale=scale, cols=cols, block=block, level=s_11)


def nvfp4_block_scale(x_MK: torch.Tensor, global_scale: torch.Tensor, cols: int = NVFP4_COLS) -> torch.Tensor:
    """amax / 6 / global of each group, F8_E4M3 [M, G]: two float32 divisions, then to nearest even, saturated at 448.

    `global_scale` is the multiplier, one element. A group with a NaN or an infinity has a NaN.
    """
    amax = _nan_if_infinite(group_amax(x_MK.float(), cols))
    return to_codes(divided(amax, _LARGEST_CODE) / global_scale, DType.F8_E4M3)


def nvfp4_global_scale(x_MK: torch.Tensor) -> torch.Tensor:
    """amax / (6 * 448) of the whole tensor, float32 [1, 1]: the largest block scale becomes 448. 1 for no tokens.

    A NaN or infinity anywhere makes it a NaN, and NaNs of the whole tensor, as with every scale per tensor.
    """
    if not x_MK.numel():
        return x_MK.new_ones(1, 1, dtype=torch.float32)
    amax = x_MK.float().abs().amax().reshape(1, 1)
    return _in_range(divided(_nan_if_infinite(amax), _LARGEST_CODE * _LARGEST_BLOCK))


def _nan_if_infinite(amax: torch.Tensor) -> torch.Tensor:
    return amax.masked_fill(amax.isinf(), float("nan"))


def _in_range(global_scale: torch.Tensor) -> torch.Tensor:
    """Never 0 nor infinite, as the reciprocal of a stored number may be: 0 / 0 and 0 * inf would be NaNs."""
    return global_scale.clamp(SMALLEST_SCALE, torch.finfo(torch.float32).max)
