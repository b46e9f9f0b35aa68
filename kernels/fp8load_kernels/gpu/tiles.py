"""What products for few tokens share: how work is cut up, and how the pieces of a long sum are put together.

Such a product is bound by reading the weight, so W stands on the left: [N, K] @ [K, M]. The tensor cores of Hopper take
64 rows of the left operand and as few as 8 columns of the right one, and W goes from memory to them as it lies.

Shape letters: M rows (tokens), N weight rows, K columns, S pieces of a sum over K.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from fp8load_kernels.gpu.launch import constants, kernel, overlaps

FEW = 64
"""Tokens up to which these products are asked."""


LARGE = (9, 10)
"""Major compute capabilities on which a program has room for large tiles of packed weights: 227 KiB of shared memory,
and operands of products that lie in it. On 8.6, 8.9 and 12.0 it has 99 KiB, and from 8.0 on all are in registers."""


class Tile(NamedTuple):
    """What a program computes: [n, m] of the result over 1 / splits of the columns, `k` columns at a time."""

    m: int
    n: int
    k: int
    splits: int
    num_warps: int
    num_stages: int


@cache
def num_processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; as many as an H200 has where there is none."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


@cache
def is_large(device: torch.device) -> bool:
    """Whether it is of `LARGE`; where kernels are interpreted too."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] in LARGE


def splits_of(num_tiles: int, num_steps: int, programs: int, *, steps: int = 4) -> int:
    """Into how many pieces a sum of `num_steps` is cut: as many as give up to `programs`, each with `steps` or more."""
    splits = 1
    while num_tiles * splits * 2 <= programs and num_steps // (splits * 2) >= steps:
        splits *= 2
    return splits


@triton.jit
def grid_row(row_ptr, at, BLOCK_N: tl.constexpr, MAPPED: tl.constexpr):
    """In which row of the grid of scales those of rows `at` of W stand."""
    return tl.load(row_ptr + at).to(tl.int64) if MAPPED else at // BLOCK_N


@triton.jit
def store_tile(y_ptr, total, bias_ptr, rows, cols, num_tokens, num_rows, BIASED: tl.constexpr, SPLIT: tl.constexpr):
    """Write a tile [N, M] of the result to y [M, N], with the bias, or to the pieces [S, M, N] of its sums."""
    if BIASED:
        total += tl.load(bias_ptr + tl.minimum(cols, num_rows - 1)).to(tl.float32)[:, None]
    to = rows.to(tl.int64)[None, :] * num_rows + cols[:, None]
    if SPLIT:
        to += tl.program_id(2).to(tl.int64) * num_tokens * num_rows
    keep = (cols < num_rows)[:, None] & (rows < num_tokens)[None, :]
    tl.store(y_ptr + to, total.to(y_ptr.dtype.element_ty), mask=keep)


@kernel
def sum_pieces(
    piece_ptr, y_ptr, bias_ptr, num_rows, num_elements, SPLITS: tl.constexpr, BIASED: tl.constexpr,
    BLOCK: tl.constexpr, WAIT: tl.constexpr,
):  # fmt: skip
    """y [M, N] = the sum of float32 pieces [S, M, N], always in the same order, and the bias; rounded once."""
    if WAIT:
        gdc_wait()
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < num_elements
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for piece in tl.static_range(SPLITS):
        total += tl.load(piece_ptr + piece * num_elements + at, mask=mask, other=0.0)
    if BIASED:
        total += tl.load(bias_ptr + at % num_rows, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_ptr + at, total.to(y_ptr.dtype.element_ty), mask=mask)


def put_pieces_together(pieces: torch.Tensor, y_MN: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """y [M, N] from float32 pieces [S, M, N], in one launch."""
    early = overlaps(y_MN.device)
    sum_pieces(
        (triton.cdiv(y_MN.numel(), 512), 1, 1),
        (pieces, y_MN, y_MN if bias is None else bias),
        (y_MN.shape[1], y_MN.numel()),
        constants(SPLITS=len(pieces), BIASED=bias is not None, BLOCK=512, WAIT=early, num_warps=4, launch_pdl=early),
    )
    return y_MN
