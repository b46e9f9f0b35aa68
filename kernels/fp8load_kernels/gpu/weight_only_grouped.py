"""x @ W[expert].T for rows sorted by expert where only W is quantized, in Triton: FP8, INT8, FP4 and INT4, any routing.

Rows and tiles as in `gpu.grouped`, unpacking and sums as in `gpu.weight_only`: W stands on the left, and is never
written out unpacked. Nothing is asked of the device.

Floor: the bytes of the experts that have tokens for few of these, 2 * N * K operations for each pair for many.

Shape letters: E experts, P rows, S rows of the input (P, or T tokens), N weight rows, K columns, G groups of columns,
R rows of an expert's grid of scales.
"""

from __future__ import annotations

from math import gcd

import torch
import triton
import triton.language as tl

from fp8load.runtime.routing import Routing
from fp8load_kernels.gpu.block import _tile
from fp8load_kernels.gpu.launch import constants, kernel
from fp8load_kernels.gpu.tiles import Tile, is_large, store_tile
from fp8load_kernels.gpu.unpack import Coded
from fp8load_kernels.gpu.weight_only import apart, products, runs_ptx, words


def tile_of_groups(num_pairs: int, num_experts: int, w: Coded, dtype: torch.dtype, *, large: bool) -> Tile:
    """By the number of rows that an expert has on average; sizes follow those of `gpu.weight_only`.

    Float32 has no tensor cores that keep its bits: a small tile, which is multiplied element by element.
    """
    mean = triton.cdiv(num_pairs, max(num_experts, 1))
    if dtype == torch.float32:
        m, n, k, num_warps, num_stages = 16, 64, 32, 4, 2
    elif mean <= 32:
        m, n, k, num_warps, num_stages = 16 if mean <= 16 else 32, 64, 128, 4, 3
    else:
        m, n, k, num_warps, num_stages = 64 if mean <= 64 or (w.per_byte == 2 and not large) else 128, 128, 64, 8, 3
    k *= w.per_byte
    if w.scale is not None and not w.multiplies_codes(dtype):
        k = min(k, w.block[1])
    return Tile(m, n, k, 1, num_warps, num_stages)


def grouped_weight_only(
    x_SK: torch.Tensor, w: Coded, routing: Routing, *, by_token: bool, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """[P, N] in x's dtype (BF16, F16, float32), summed, scaled and biased in float32, rounded once.

    Rows of nobody are not written.

    x_SK      columns next to each other; by_token: a row for each token, else rows as `routing` has them
    w         the weight of one expert, with the expert as the first axis of `codes`, `scale` ([E, R, G]) and `factor`
              ([E, N]); `row_of` is the same for all
    bias      [E, N]
    """
    num_rows, num_cols = w.shape
    y_PN = x_SK.new_empty(routing.num_rows, num_rows)
    if not y_PN.numel():
        return y_PN
    pairs, device = routing.position.numel(), x_SK.device
    tile = tile_of_groups(pairs, w.codes.shape[0], w, x_SK.dtype, large=is_large(device))
    m = gcd(tile.m, routing.alignment)
    in_words = _words(w.scale) if tile.k >= 4 * w.block[1] else None
    scale, in_codes = w.scale if in_words is None else in_words, w.multiplies_codes(x_SK.dtype)
    fused = w.kind == "e2m1" and in_codes and x_SK.dtype == torch.bfloat16 and runs_ptx(device)
    codes = w.codes
    _grouped(
        (routing.num_rows // m * triton.cdiv(num_rows, tile.n), 1, 1),
        (x_SK if w.per_byte == 1 else apart(x_SK), codes, y_PN, codes if scale is None else scale, routing.expert,
         routing.token, codes if w.row_of is None else w.row_of, codes if w.factor is None else w.factor,
         codes if bias is None else bias),
        (routing.num_rows, x_SK.shape[0], num_rows, num_cols, x_SK.stride(0) if w.per_byte == 1 else num_cols // 2,
         codes.stride(0), codes.stride(1), *((0, 0, 0) if scale is None else scale.stride()),
         0 if w.factor is None else w.factor.stride(0), 0 if bias is None else bias.stride(0)),
        constants(KIND=w.kind, PER_BYTE=w.per_byte, SCALE_KIND="" if scale is None else w.scale_kind,
        SCALED=scale is not None, BLOCK_N=w.block[0], COLS=w.block[1], MAPPED=w.row_of is not None,
        WORDS=in_words is not None, IN_CODES=in_codes, FACTOR=w.factor is not None, BIASED=bias is not None,
        STEPS=triton.cdiv(num_cols, tile.k), PACKED=fused, BY_TOKEN=by_token, M=m, N=tile.n, K=tile.k,
        num_warps=tile.num_warps, num_stages=tile.num_stages),
    )  # fmt: skip
    return y_PN


def _words(scale: torch.Tensor | None) -> torch.Tensor | None:
    """`words` of a stack: int32 [E, R, G / 4]."""
    if scale is None or not scale.is_contiguous():
        return None
    found = words(scale.view(-1, scale.shape[2]))
    return None if found is None else found.view(*scale.shape[:2], -1)


@kernel
def _grouped(
    x_ptr, w_ptr, y_ptr, s_ptr, expert_ptr, token_ptr, row_ptr, factor_ptr, bias_ptr, room, num_inputs, num_rows,
    num_cols, x_stride, w_stride_e, w_stride_n, s_stride_e, s_stride_r, s_stride_g, factor_stride, bias_stride,
    KIND: tl.constexpr, PER_BYTE: tl.constexpr, SCALE_KIND: tl.constexpr, SCALED: tl.constexpr, BLOCK_N: tl.constexpr,
    COLS: tl.constexpr, MAPPED: tl.constexpr, WORDS: tl.constexpr, IN_CODES: tl.constexpr, FACTOR: tl.constexpr,
    BIASED: tl.constexpr, STEPS: tl.constexpr, PACKED: tl.constexpr, BY_TOKEN: tl.constexpr, M: tl.constexpr,
    N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    tile_m, tile_n = _tile(room, num_rows, M, N)
    rows = tile_m * M + tl.arange(0, M)
    expert = tl.load(expert_ptr + tile_m * M).to(tl.int64)
    if expert < 0:
        return
    token = tl.load(token_ptr + rows)
    cols = tile_n * N + tl.arange(0, N)
    # Rows of nobody read some other one, and so do rows of W beyond the end: their results are not stored.
    row_at = (tl.maximum(token, 0) if BY_TOKEN else rows).to(tl.int64)
    col_at = tl.minimum(cols, num_rows - 1).to(tl.int64)
    total = products(
        x_ptr + row_at[:, None] * x_stride, x_ptr + (num_inputs + row_at)[:, None] * x_stride, token >= 0,
        w_ptr + expert * w_stride_e, s_ptr + expert * s_stride_e, row_ptr, col_at, 0, num_cols, w_stride_n, s_stride_r,
        s_stride_g, x_ptr.dtype.element_ty, KIND, PER_BYTE, SCALE_KIND, SCALED, BLOCK_N, COLS, MAPPED, WORDS, IN_CODES,
        STEPS, PACKED, M, N, K,
    )  # fmt: skip
    if FACTOR:
        total *= tl.load(factor_ptr + expert * factor_stride + col_at)[:, None]
    live = tl.where(token >= 0, rows, room)
    store_tile(y_ptr, total, bias_ptr + expert * bias_stride, live, cols, room, num_rows, BIASED, False)
