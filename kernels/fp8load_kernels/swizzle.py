"""Scales of groups in the tiles that cuBLAS reads: `fp8load.swizzle` the other way round, on the device.

Source: cuBLAS, "1D block scaling factors layout"; torch calls it `SwizzleType.SWIZZLE_32_4_4`. Shape letters: R rows,
G groups of each.
"""

from __future__ import annotations

import torch

from fp8load.swizzle import TILE_COLS, TILE_ROWS, padded_shape


def swizzled(scale_RG: torch.Tensor) -> torch.Tensor:
    """One-byte scales [R, G] -> [ceil128(R) * ceil4(G)] of the same dtype, contiguous, zeros where nothing was.

    A scale that is zero (2 ** -127 in E8M0) stands beside codes that a kernel takes to be zero: never a NaN.
    """
    num_rows, num_groups = scale_RG.shape
    height, width = padded_shape((num_rows, num_groups))
    padded = torch.nn.functional.pad(scale_RG.view(torch.uint8), (0, width - num_groups, 0, height - num_rows))
    tiles = padded.reshape(height // TILE_ROWS, 4, 32, width // TILE_COLS, TILE_COLS)
    return tiles.permute(0, 3, 2, 1, 4).contiguous().view(-1).view(scale_RG.dtype)
