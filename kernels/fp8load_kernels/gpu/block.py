"""x @ W.T of FP8 codes with scales of groups of x and of blocks of W, in Triton; any M, N and K.

Floor: N * K bytes of the weight for few tokens, 2 * M * N * K operations for many. Every group of K is multiplied from
zero and scaled in float32 before it is added, so that what the tensor cores sum up imprecisely is one group long.

Shape letters: M rows (tokens), N weight rows, K columns, G = ceil(K / g) groups of g columns, R rows of the grid of
block scales.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from fp8load_kernels.gpu.launch import constants, kernel


class Tile(NamedTuple):
    """How much of the result a program computes, and with how many warps and buffers of operands."""

    m: int
    n: int
    num_warps: int
    num_stages: int


TILE = Tile(64, 128, 4, 4)
"""Of those tried on an H200; few tokens have another product, see `fp8load_kernels.few`."""


def block_product(
    x_MK: torch.Tensor,
    x_scale_MG: torch.Tensor,
    w_NK: torch.Tensor,
    w_scale_RG: torch.Tensor,
    scale_row_N: torch.Tensor | None,
    block: tuple[int, int],
    dtype: torch.dtype,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """[M, N] in `dtype`, summed, scaled and biased in float32, rounded once.

    Codes of x [M, K] and W [N, K] with K next to each other; scales float32 with any strides. `scale_row_N`, int32:
    which row of the grid a row of W has, where that is not its number over the block's rows (fused parts that end
    within a block). `block` is (rows, columns); columns are a power of two of at least 16.
    """
    num_tokens, num_cols = x_MK.shape
    num_rows, mapped = w_NK.shape[0], scale_row_N is not None
    y_MN = torch.empty(num_tokens, num_rows, dtype=dtype, device=x_MK.device)
    if not y_MN.numel():
        return y_MN
    _product(
        (triton.cdiv(num_tokens, TILE.m) * triton.cdiv(num_rows, TILE.n), 1, 1),
        (x_MK, w_NK, y_MN, x_scale_MG, w_scale_RG, w_NK if scale_row_N is None else scale_row_N,
         w_NK if bias is None else bias),
        (num_tokens, num_rows, num_cols, x_MK.stride(0), w_NK.stride(0), *x_scale_MG.stride(), *w_scale_RG.stride()),
        constants(
            BLOCK_N=block[0], BLOCK_K=block[1], M=TILE.m, N=TILE.n, MAPPED=mapped, BIASED=bias is not None,
            WHOLE=num_cols % block[1] == 0, ONE_SCALE=not mapped and block[0] % TILE.n == 0,
            GROUPS=triton.cdiv(num_cols, block[1]), num_warps=TILE.num_warps, num_stages=TILE.num_stages,
        ),
    )  # fmt: skip
    return y_MN


@triton.jit
def _tile(num_tokens, num_rows, M: tl.constexpr, N: tl.constexpr):
    """Which tile is this program's: eight of M beside each other share tiles of W in the L2."""
    tiles_m, tiles_n = tl.cdiv(num_tokens, M), tl.cdiv(num_rows, N)
    together = 8 * tiles_n
    first = tl.program_id(0) // together * 8
    height = tl.minimum(tiles_m - first, 8)
    within = tl.program_id(0) % together
    return first + within % height, within // height


@kernel
def _product(
    x_ptr, w_ptr, y_ptr, xs_ptr, ws_ptr, row_ptr, bias_ptr, num_tokens, num_rows, num_cols, x_stride, w_stride,
    xs_stride_m, xs_stride_g, ws_stride_r, ws_stride_g, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, MAPPED: tl.constexpr, BIASED: tl.constexpr, WHOLE: tl.constexpr,
    ONE_SCALE: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    tile_m, tile_n = _tile(num_tokens, num_rows, M, N)
    rows = tile_m * M + tl.arange(0, M)
    cols = tile_n * N + tl.arange(0, N)
    inner = tl.arange(0, BLOCK_K)
    # Rows beyond the end read the last one: their results are not stored.
    row_at = tl.minimum(rows, num_tokens - 1).to(tl.int64)
    col_at = tl.minimum(cols, num_rows - 1).to(tl.int64)
    x_at = x_ptr + row_at[:, None] * x_stride + inner[None, :]
    w_at = w_ptr + col_at[None, :] * w_stride + inner[:, None]
    xs_at = xs_ptr + row_at * xs_stride_m
    if MAPPED:
        grid_row = tl.load(row_ptr + col_at)
    elif ONE_SCALE:
        grid_row = tile_n * N // BLOCK_N
    else:
        grid_row = col_at // BLOCK_N
    ws_at = ws_ptr + grid_row * ws_stride_r
    total = tl.zeros([M, N], dtype=tl.float32)
    for group in range(GROUPS):
        if WHOLE:
            x, w = tl.load(x_at), tl.load(w_at)
        else:
            left = num_cols - group * BLOCK_K
            x = tl.load(x_at, mask=inner[None, :] < left, other=0.0)
            w = tl.load(w_at, mask=inner[:, None] < left, other=0.0)
        xs, ws = tl.load(xs_at), tl.load(ws_at)
        part = tl.dot(x, w)
        if ONE_SCALE:
            total += part * (xs * ws)[:, None]
        else:
            total += part * xs[:, None] * ws[None, :]
        x_at += BLOCK_K
        w_at += BLOCK_K
        xs_at += xs_stride_g
        ws_at += ws_stride_g
    if BIASED:
        total += tl.load(bias_ptr + col_at).to(tl.float32)[None, :]
    keep = (rows < num_tokens)[:, None] & (cols < num_rows)[None, :]
    to = y_ptr + rows.to(tl.int64)[:, None] * num_rows + cols[None, :]
    tl.store(to, total.to(y_ptr.dtype.element_ty), mask=keep)
