"""Sizes that a kernel cannot take: zeros around the codes, cut off the result.

A byte of zero is the number zero in every 8-bit float, so padding never changes a sum.
"""

from __future__ import annotations

import torch


def aligned(size: int, alignment: int) -> int:
    """The smallest multiple of `alignment` that is not smaller."""
    return -(-size // alignment) * alignment


def padded_weight(weight: torch.Tensor, alignment: int, buffer: torch.Tensor | None = None) -> torch.Tensor:
    """The weight [N, K] with both sizes aligned: itself where they are, else a copy in a buffer of zeros.

    `buffer` is what an earlier call gave for the same layer; its logical region is written again, the padding stays.
    """
    size = [aligned(n, alignment) for n in weight.shape]
    if size == list(weight.shape):
        return weight
    if buffer is None:
        buffer = torch.zeros(size, dtype=torch.uint8, device=weight.device).view(weight.dtype)
    buffer[: weight.shape[0], : weight.shape[1]].copy_(weight)
    return buffer


def pad_columns(x_MK: torch.Tensor, num_cols: int) -> torch.Tensor:
    """8-bit codes [M, K] with zeros up to `num_cols` columns."""
    missing = num_cols - x_MK.shape[1]
    if not missing:
        return x_MK
    return torch.nn.functional.pad(x_MK.view(torch.uint8), (0, missing)).view(x_MK.dtype)
