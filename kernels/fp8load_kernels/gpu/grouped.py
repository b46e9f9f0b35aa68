"""x @ W[expert].T of FP8 codes for rows sorted by expert, in Triton; any N and K, any routing.

A program computes a tile of rows that are all of one expert: rows of an expert begin at a multiple of the tile, so the
tile's first row says whose it is, and tiles of nobody end at once. The grid follows from the number of pairs alone.
Rows are fetched by an index of tokens where the input is one row for each token.

Floor: the weights of the experts that have tokens for few of these, 2 * N * K operations for each pair for many. As in
`gpu.block`, each group of K is multiplied from zero, so that what tensor cores sum up imprecisely is one group long.

Shape letters: E experts, P rows, S rows of the input (P, or T tokens), N weight rows, K columns, G groups of g columns,
R rows of an expert's grid of block scales.
"""

from __future__ import annotations

from math import gcd

import torch
import triton
import triton.language as tl

from fp8load.runtime.routing import Routing
from fp8load_kernels.gpu.block import Tile, _tile
from fp8load_kernels.gpu.launch import constants, kernel

ROW_GROUP = 128
"""Columns that are multiplied at once where a row has one scale."""


def tile_of_groups(num_pairs: int, num_experts: int, *, blocks: bool) -> Tile:
    """By the number of rows that an expert has on average."""
    mean = triton.cdiv(num_pairs, max(num_experts, 1))
    if mean <= 16:
        return Tile(16, 64, 4, 5)
    if mean <= 32:
        return Tile(32, 64, 4, 4)
    if mean <= 64 or blocks:
        return Tile(64, 128, 4, 4)
    return Tile(128, 128, 8, 4)


def grouped_product(
    x_SK: torch.Tensor,
    x_scale_SG: torch.Tensor,
    w_ENK: torch.Tensor,
    w_scale: torch.Tensor,
    routing: Routing,
    *,
    by_token: bool,
    dtype: torch.dtype,
    block: tuple[int, int] | None = None,
    scale_row_N: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """[P, N] in `dtype`, summed, scaled and biased in float32, rounded once; rows of nobody are not written.

    by_token     x has a row for each token; else rows as `routing` has them
    x_scale_SG   float32 with any strides: [S, G] with blocks, else [S, 1]
    w_scale      float32: [E, R, G] with blocks of (rows, columns), columns a power of two of at least 16; else [E, N]
    scale_row_N  int32: which row of an expert's grid a row of W has, where that is not its number over the block's rows
    bias         [E, N]
    """
    num_experts, num_rows, num_cols = w_ENK.shape
    y_PN = torch.empty(routing.num_rows, num_rows, dtype=dtype, device=x_SK.device)
    if not y_PN.numel():
        return y_PN
    tile = tile_of_groups(routing.position.numel(), num_experts, blocks=block is not None)
    m = gcd(tile.m, routing.alignment)
    rows, cols = (1, ROW_GROUP) if block is None else block
    ws_strides = (w_scale.stride(0), w_scale.stride(1), 0 if block is None else w_scale.stride(2))
    _product(
        (routing.num_rows // m * triton.cdiv(num_rows, tile.n), 1, 1),
        (x_SK, w_ENK, y_PN, x_scale_SG, w_scale, routing.expert, routing.token,
         w_ENK if scale_row_N is None else scale_row_N, w_ENK if bias is None else bias),
        (routing.num_rows, num_rows, num_cols, x_SK.stride(0), w_ENK.stride(0), w_ENK.stride(1), *x_scale_SG.stride(),
         *ws_strides, 0 if bias is None else bias.stride(0)),
        constants(BLOCK_N=rows, BLOCK_K=cols, M=m, N=tile.n, BY_TOKEN=by_token, BLOCKS=block is not None,
        MAPPED=scale_row_N is not None, BIASED=bias is not None, WHOLE=num_cols % cols == 0,
        ONE_SCALE=block is not None and scale_row_N is None and rows % tile.n == 0,
        GROUPS=triton.cdiv(num_cols, cols), num_warps=tile.num_warps, num_stages=tile.num_stages),
    )  # fmt: skip
    return y_PN


@kernel
def _product(
    x_ptr, w_ptr, y_ptr, xs_ptr, ws_ptr, expert_ptr, token_ptr, row_ptr, bias_ptr, room, num_rows, num_cols,
    x_stride, w_stride_e, w_stride_n, xs_stride_s, xs_stride_g, ws_stride_e, ws_stride_r, ws_stride_g, bias_stride,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, M: tl.constexpr, N: tl.constexpr, BY_TOKEN: tl.constexpr,
    BLOCKS: tl.constexpr, MAPPED: tl.constexpr, BIASED: tl.constexpr, WHOLE: tl.constexpr, ONE_SCALE: tl.constexpr,
    GROUPS: tl.constexpr,
):  # fmt: skip
    tile_m, tile_n = _tile(room, num_rows, M, N)
    rows = tile_m * M + tl.arange(0, M)
    expert = tl.load(expert_ptr + tile_m * M).to(tl.int64)
    if expert < 0:
        return
    token = tl.load(token_ptr + rows)
    cols = tile_n * N + tl.arange(0, N)
    inner = tl.arange(0, BLOCK_K)
    # Rows of nobody and columns beyond the end read some other one: their results are not stored.
    row_at = (tl.maximum(token, 0) if BY_TOKEN else rows).to(tl.int64)
    col_at = tl.minimum(cols, num_rows - 1).to(tl.int64)
    x_at = x_ptr + row_at[:, None] * x_stride + inner[None, :]
    w_at = w_ptr + expert * w_stride_e + col_at[None, :] * w_stride_n + inner[:, None]
    xs_at = xs_ptr + row_at * xs_stride_s
    ws_at = ws_ptr + expert * ws_stride_e
    if ONE_SCALE:
        ws_at += tile_n * N // BLOCK_N * ws_stride_r
    else:
        ws_at = ws_at + (tl.load(row_ptr + col_at) if MAPPED else col_at // BLOCK_N) * ws_stride_r
    total = tl.zeros([M, N], dtype=tl.float32)
    for group in range(GROUPS):
        if WHOLE:
            x, w = tl.load(x_at), tl.load(w_at)
        else:
            left = num_cols - group * BLOCK_K
            x = tl.load(x_at, mask=inner[None, :] < left, other=0.0)
            w = tl.load(w_at, mask=inner[:, None] < left, other=0.0)
        part = tl.dot(x, w)
        if BLOCKS:
            xs, ws = tl.load(xs_at), tl.load(ws_at)
            total += part * ((xs * ws)[:, None] if ONE_SCALE else xs[:, None] * ws[None, :])
            xs_at, ws_at = xs_at + xs_stride_g, ws_at + ws_stride_g
        else:
            total += part
        x_at, w_at = x_at + BLOCK_K, w_at + BLOCK_K
    if not BLOCKS:
        total = total * tl.load(xs_at)[:, None] * tl.load(ws_at)[None, :]
    if BIASED:
        total += tl.load(bias_ptr + expert * bias_stride + col_at).to(tl.float32)[None, :]
    keep = (token >= 0)[:, None] & (cols < num_rows)[None, :]
    to = y_ptr + rows.to(tl.int64)[:, None] * num_rows + cols[None, :]
    tl.store(to, total.to(y_ptr.dtype.element_ty), mask=keep)
