"""x @ W.T of FP8 codes for few tokens, in Triton.

Floor: N * K bytes of the weight over the bandwidth. The kernel begins while the one that quantizes the input ends, and
asks for its part of the weight meanwhile. It does not quantize by itself: each program would look at whole rows first,
or quantize as much as it multiplies, and even with a stored scale that took longer on an H200 (docs/benchmarks).

Shape letters: M rows (tokens), N weight rows, K columns, G = ceil(K / g) groups of g columns, R rows of the grid of
block scales, S pieces of the sum over K.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from fp8load_kernels.gpu.launch import Constants, Plan, kernel, overlaps, prefetch
from fp8load_kernels.gpu.tiles import (
    Tile,
    grid_row,
    is_large,
    num_processors,
    put_pieces_together,
    splits_of,
    store_tile,
)


class Weight(NamedTuple):
    """An FP8 weight [N, K] with scales: [N, 1] by row, or a grid [R, G] of blocks, float32 with any strides.

    block   rows and columns of a block; None for scales by row
    row_of  int32 [N]: which row of the grid a row of W has, where that is not its number over the block's rows
    """

    codes: torch.Tensor
    scale: torch.Tensor
    block: tuple[int, int] | None = None
    row_of: torch.Tensor | None = None


def tile_of(
    num_tokens: int,
    shape_NK: tuple[int, int],
    block: tuple[int, int] | None,
    processors: int,
    *,
    large: bool = True,
) -> Tile:
    """By size alone: measured on an H200, see docs/benchmarks. `large`: see `tiles.LARGE`."""
    num_rows, num_cols = shape_NK
    m = 16 if num_tokens <= 16 else 32 if num_tokens <= 32 else 64
    tiles = triton.cdiv(num_rows, 64) * triton.cdiv(num_tokens, m)
    if block is not None:
        k, num_stages, programs = min(block[1], 128), 5, 5 * processors // 2
    elif tiles > 2 * processors:
        k, num_stages, programs = 128, 3, 0
    elif tiles > processors and m > 16:
        k, num_stages, programs = 128, 5, 0
    else:
        # A sum is cut where a third of the GPU would be idle; a tile of more tokens fills a multiprocessor alone.
        k, num_stages, programs = 256, 5 if large or m < 64 else 3, 2 * processors if m == 16 else processors
        programs = programs if 3 * tiles < 2 * processors else 0
    return Tile(m, 64, k, splits_of(tiles, triton.cdiv(num_cols, k), programs), 4, num_stages)


@lru_cache(4096)
def plan_of(
    sizes_MNK: tuple[int, int, int],
    block: tuple[int, int] | None,
    *,
    mapped: bool,
    biased: bool,
    device: torch.device,
    tile: Tile | None = None,
) -> Plan:
    """The launch of a product; `tile` is for measuring."""
    num_tokens, num_rows, num_cols = sizes_MNK
    tile = tile or tile_of(num_tokens, (num_rows, num_cols), block, num_processors(device), large=is_large(device))
    steps, (block_n, block_k) = triton.cdiv(num_cols, tile.k), block or (1, 1)
    splits, early = min(tile.splits, steps), overlaps(device)
    constants = Constants(
        BLOCK_N=block_n, BLOCK_K=block_k, BLOCKED=block is not None, MAPPED=mapped,
        ONE_SCALE=not mapped and block_n % tile.n == 0, BIASED=biased and splits == 1,
        WHOLE=num_cols % (tile.k * splits) == 0, STEPS=triton.cdiv(steps, splits), SPLIT=splits > 1, M=tile.m,
        N=tile.n, K=tile.k, AHEAD=tile.num_stages - 1, WAIT=early, num_warps=tile.num_warps,
        num_stages=tile.num_stages, launch_pdl=early,
    )  # fmt: skip
    return Plan((triton.cdiv(num_rows, tile.n), triton.cdiv(num_tokens, tile.m), splits), splits, constants)


def few_product(
    x_MK: torch.Tensor,
    x_scale: torch.Tensor,
    w: Weight,
    dtype: torch.dtype,
    bias: torch.Tensor | None = None,
    *,
    tile: Tile | None = None,
) -> torch.Tensor:
    """[M, N] in `dtype`, summed, scaled and biased in float32, rounded once; the same bits whenever it is called.

    Codes x [M, K], columns next to each other; its scales, float32 with any strides: [M, 1], or [M, G] where the weight
    has blocks. Columns of blocks are a power of two of at least 32.
    """
    num_tokens, num_cols = x_MK.shape
    codes, w_scale, num_rows = w.codes, w.scale, len(w.codes)
    y_MN = torch.empty(num_tokens, num_rows, dtype=dtype, device=x_MK.device)
    if not num_tokens or not num_rows:
        return y_MN
    sizes, mapped = (num_tokens, num_rows, num_cols), w.row_of is not None
    plan = plan_of(sizes, w.block, mapped=mapped, biased=bias is not None, device=x_MK.device, tile=tile)
    into = y_MN
    if plan.splits > 1:
        into = torch.empty(plan.splits, num_tokens, num_rows, dtype=torch.float32, device=x_MK.device)
    _few(
        plan.grid,
        (x_MK, codes, into, x_scale, w_scale, codes if w.row_of is None else w.row_of, codes if bias is None else bias),
        (*sizes, x_MK.stride(0), codes.stride(0), *x_scale.stride(), *w_scale.stride()),
        plan.constants,
    )
    return y_MN if plan.splits == 1 else put_pieces_together(into, y_MN, bias)


@kernel
def _few(
    x_ptr, w_ptr, y_ptr, xs_ptr, ws_ptr, row_ptr, bias_ptr, num_tokens, num_rows, num_cols, x_stride, w_stride,
    xs_stride_m, xs_stride_g, ws_stride_r, ws_stride_g, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCKED: tl.constexpr, MAPPED: tl.constexpr, ONE_SCALE: tl.constexpr, BIASED: tl.constexpr,
    WHOLE: tl.constexpr, STEPS: tl.constexpr, SPLIT: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
    AHEAD: tl.constexpr, WAIT: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(1) * M + tl.arange(0, M)
    cols = tl.program_id(0) * N + tl.arange(0, N)
    first = tl.program_id(2) * STEPS * K
    inner = tl.arange(0, K)
    # Rows of W beyond the end read the last one: their results are not stored.
    col_at = tl.minimum(cols, num_rows - 1).to(tl.int64)
    row_at = tl.minimum(rows, num_tokens - 1).to(tl.int64)
    w_at = w_ptr + col_at[:, None] * w_stride + first + inner[None, :]
    if WAIT:
        # The weight is on its way while the input is still being quantized.
        lines = tl.minimum(first + tl.arange(0, max(1, AHEAD * K // 128)) * 128, num_cols - 1)
        prefetch((w_ptr + col_at[:, None] * w_stride + lines[None, :]).to(tl.uint64, bitcast=True))
        gdc_wait()
    if BLOCKED:
        of_tile = tl.minimum(tl.program_id(0) * N, num_rows - 1).to(tl.int64)
        ws_at = ws_ptr + grid_row(row_ptr, of_tile if ONE_SCALE else col_at, BLOCK_N, MAPPED) * ws_stride_r
    total = tl.zeros([N, M], dtype=tl.float32)
    for step in range(STEPS):
        at = first + step * K + inner
        # Nothing is added where a piece of a sum ends behind the last column.
        inside = at < num_cols
        w = tl.load(w_at) if WHOLE else tl.load(w_at, mask=inside[None, :], other=0.0)
        if BLOCKED:
            group = tl.minimum(first + step * K, num_cols - 1) // BLOCK_K
            ws = tl.load(ws_at + group * ws_stride_g)
        some = (rows < num_tokens)[:, None] & inside[None, :]
        x = tl.load(x_ptr + row_at[:, None] * x_stride + at[None, :], mask=some, other=0.0)
        if BLOCKED:
            xs = tl.load(xs_ptr + row_at * xs_stride_m + group * xs_stride_g)[None, :]
        part = tl.dot(w, tl.trans(x))
        if not BLOCKED:
            total += part
        elif ONE_SCALE:
            total += part * (xs * ws)
        else:
            total += part * xs * ws[:, None]
        w_at += K
    if not BLOCKED:
        xs = tl.load(xs_ptr + row_at * xs_stride_m)[None, :]
        total = total * xs * tl.load(ws_ptr + col_at * ws_stride_r)[:, None]
    store_tile(y_ptr, total, bias_ptr, rows, cols, num_tokens, num_rows, BIASED, SPLIT)
