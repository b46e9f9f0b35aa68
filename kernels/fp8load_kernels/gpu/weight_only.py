"""x @ W.T where only W is quantized, in Triton: FP8, INT8, FP4 and INT4, unpacked in the kernel.

Floor for few tokens: the bytes of W over the bandwidth. For many tokens see `gpu.unpack`.

Codes become F16, exactly. Scales of blocks multiply the sum over a block's columns, in float32. Those of groups of 16
or 32 columns multiply the codes, where that is exact in x's dtype (E4M3 on E2M1: six bits of mantissa; E8M0: none, but
only BF16 has the exponents); else the sum over a group.

Shape letters: M rows (tokens), N weight rows, K columns, R rows of the grid of scales, G = ceil(K / g) groups.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from fp8load_kernels.gpu.decode import e2m1_times, nibbles, scales, whole_bytes
from fp8load_kernels.gpu.launch import Constants, Plan, kernel, overlaps
from fp8load_kernels.gpu.tiles import (
    Tile,
    grid_row,
    is_large,
    num_processors,
    put_pieces_together,
    splits_of,
    store_tile,
)
from fp8load_kernels.gpu.unpack import PACKED, Coded, spread


def tile_of(num_tokens: int, w: Coded, dtype: torch.dtype, processors: int, *, large: bool = True) -> Tile:
    """By size alone: measured on an H200, see docs/benchmarks. `large`: see `tiles.LARGE`."""
    num_rows, num_cols = w.shape
    m = 16 if num_tokens <= 16 else 32 if num_tokens <= 32 else 64
    k = 128 * w.per_byte if large or m < 64 else 128
    if w.scale is not None and not w.multiplies_codes(dtype):
        k = min(k, w.block[1])
    steps = triton.cdiv(num_cols, k)
    if m == 64:
        # More rows read the tokens less often, but a tile fills a multiprocessor: not where a fourth would be idle.
        tiles = triton.cdiv(num_rows, 128) * triton.cdiv(num_tokens, m)
        splits = splits_of(tiles, steps, processors)
        programs = tiles * splits
        if 4 * programs >= 3 * processors * triton.cdiv(programs, processors):
            return Tile(m, 128, k, splits, 8, 3)
    tiles = triton.cdiv(num_rows, 64) * triton.cdiv(num_tokens, m)
    return Tile(m, 64, k, splits_of(tiles, steps, 5 * processors), 4, 3)


class Kind(NamedTuple):
    """What of a weight decides how its kernel is compiled."""

    kind: str
    shape: tuple[int, int]
    scale_kind: str
    block: tuple[int, int]
    mapped: bool
    factor: bool
    in_words: bool
    in_codes: bool


@lru_cache(4096)
def plan_of(num_tokens: int, w: Kind, dtype: torch.dtype, tile: Tile, *, biased: bool, device: torch.device) -> Plan:
    """The launch of a product."""
    steps = triton.cdiv(w.shape[1], tile.k)
    splits, early = min(tile.splits, steps), overlaps(device)
    fused = w.kind == "e2m1" and w.in_codes and dtype == torch.bfloat16 and runs_ptx(device)
    constants = Constants(
        KIND=w.kind, PER_BYTE=2 if w.kind in PACKED else 1, SCALE_KIND=w.scale_kind, SCALED=bool(w.scale_kind),
        BLOCK_N=w.block[0], COLS=w.block[1], MAPPED=w.mapped, WORDS=w.in_words, IN_CODES=w.in_codes,
        HALF=dtype == torch.float16, FACTOR=w.factor, BIASED=biased and splits == 1, STEPS=triton.cdiv(steps, splits),
        SPLIT=splits > 1, PACKED=fused, M=tile.m, N=tile.n, K=tile.k, WAIT=early, num_warps=tile.num_warps,
        num_stages=tile.num_stages, launch_pdl=early,
    )  # fmt: skip
    return Plan((triton.cdiv(w.shape[0], tile.n), triton.cdiv(num_tokens, tile.m), splits), splits, constants)


def few_tokens(
    x_MK: torch.Tensor, w: Coded, bias: torch.Tensor | None = None, tile: Tile | None = None
) -> torch.Tensor:
    """x [M, K], BF16 or F16 with columns next to each other -> [M, N], summed in float32, rounded once.

    `tile` is for measuring. Raises `ValueError` for another dtype.
    """
    num_tokens, (num_rows, num_cols), dtype = x_MK.shape[0], w.shape, x_MK.dtype
    if dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(f"weight-only products take BF16 or F16, not {dtype}")
    y_MN = x_MK.new_empty(num_tokens, num_rows)
    if not y_MN.numel():
        return y_MN
    tile = tile or tile_of(num_tokens, w, dtype, num_processors(x_MK.device), large=is_large(x_MK.device))
    in_words = words(w.scale) if tile.k >= 4 * w.block[1] else None
    scale, codes = w.scale if in_words is None else in_words, w.codes
    kind = Kind(
        w.kind, w.shape, "" if scale is None else w.scale_kind, w.block, w.row_of is not None, w.factor is not None,
        in_words is not None, w.multiplies_codes(dtype),
    )  # fmt: skip
    plan = plan_of(num_tokens, kind, dtype, tile, biased=bias is not None, device=x_MK.device)
    into = y_MN if plan.splits == 1 else y_MN.new_empty(plan.splits, num_tokens, num_rows, dtype=torch.float32)
    x = x_MK if w.per_byte == 1 else apart(x_MK)
    _few(
        plan.grid,
        (x, codes, into, codes if scale is None else scale, codes if w.row_of is None else w.row_of,
         codes if w.factor is None else w.factor, codes if bias is None else bias),
        (num_tokens, num_rows, num_cols, x.stride(-2), codes.stride(0), *((0, 0) if scale is None else scale.stride())),
        plan.constants,
    )  # fmt: skip
    return y_MN if plan.splits == 1 else put_pieces_together(into, y_MN, bias)


def runs_ptx(device: torch.device) -> bool:
    """Whether kernels on a device may have instructions of NVIDIA's; not where they are interpreted."""
    return device.type == "cuda" and torch.version.hip is None


def apart(x_MK: torch.Tensor) -> torch.Tensor:
    """x [M, K] as [2, M, K / 2]: the even columns, and the odd ones, as packed weights want them."""
    num_tokens, num_cols = x_MK.shape
    return x_MK.reshape(num_tokens, num_cols // 2, 2).permute(2, 0, 1).contiguous()


def words(scale: torch.Tensor | None) -> torch.Tensor | None:
    """Scales of a byte each, [R, G], four to a word: int32 [R, G / 4], which is what is copied asynchronously.

    None where they cannot be seen so: other scales, and rows that do not begin with a word.
    """
    if scale is None or scale.itemsize > 1 or scale.shape[1] % 4 or scale.stride() != (scale.shape[1], 1):
        return None
    return scale.view(torch.int32) if scale.data_ptr() % 4 == 0 else None


@triton.jit
def _scales_at(
    s_at, index, num_groups, stride, SCALE_KIND: tl.constexpr, WORDS: tl.constexpr, COLS: tl.constexpr,
    N: tl.constexpr, K: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Scales [N, GROUPS] of piece `index` of K columns, which has several groups of COLS or is a piece of one; in
    words, four at a time."""
    if WORDS:
        word = tl.minimum(index * (GROUPS // 4) + tl.arange(0, GROUPS // 4), num_groups // 4 - 1)
        four = tl.load(s_at + word[None, :] * stride)
        bits = (four[:, :, None] >> (tl.arange(0, 4) * 8)[None, None, :]) & 255
        return scales(tl.reshape(bits, [N, GROUPS]), SCALE_KIND)
    first = index * (K // COLS) if K >= COLS else index // (COLS // K)
    group = tl.minimum(first + tl.arange(0, GROUPS), num_groups - 1)
    return scales(tl.load(s_at + group[None, :] * stride), SCALE_KIND)


@triton.jit
def _halves(
    data, s, KIND: tl.constexpr, PACKED: tl.constexpr, IN_CODES: tl.constexpr, dtype: tl.constexpr, N: tl.constexpr,
    GROUPS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The even and the odd elements of packed codes [N, WIDTH], times their scales where these multiply codes."""
    if PACKED:
        # Scales come times 2 ** 63, and so does the sum: together that undoes the codes' 2 ** -126.
        return e2m1_times(data, spread((s * 9223372036854775808.0).to(dtype), N, GROUPS, WIDTH))
    bits = data.to(tl.int16)
    low, high = nibbles(bits & 15, KIND), nibbles((bits >> 4) & 15, KIND)
    if IN_CODES:
        wide = spread(s, N, GROUPS, WIDTH)
        return (low.to(tl.float32) * wide).to(dtype), (high.to(tl.float32) * wide).to(dtype)
    return low.to(dtype), high.to(dtype)


@triton.jit
def products(
    x_at, odd_at, live, w_ptr, s_ptr, row_ptr, col_at, first, num_cols, w_stride, s_stride_r, s_stride_g,
    dtype: tl.constexpr, KIND: tl.constexpr, PER_BYTE: tl.constexpr, SCALE_KIND: tl.constexpr, SCALED: tl.constexpr,
    BLOCK_N: tl.constexpr, COLS: tl.constexpr, MAPPED: tl.constexpr, WORDS: tl.constexpr, IN_CODES: tl.constexpr,
    STEPS: tl.constexpr, PACKED: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Rows `col_at` of W times rows of x: [N, M], summed in float32 over STEPS pieces of K columns from piece `first`.

    x_at, odd_at  [M, 1]: where rows of x begin; of packed codes where those of the even and of the odd columns do
    live          [M]: which rows of x there are; the others are zeros
    dtype         what is multiplied: x's
    """
    WIDTH: tl.constexpr = K // PER_BYTE
    NOTHING: tl.constexpr = 0.0 if KIND == "hardware" else 0  # of the codes' own type
    GROUPS: tl.constexpr = max(1, K // COLS) if SCALED else 1
    inner = tl.arange(0, WIDTH)
    num_bytes, num_groups = num_cols // PER_BYTE, tl.cdiv(num_cols, COLS)
    if SCALED:
        s_at = s_ptr + grid_row(row_ptr, col_at, BLOCK_N, MAPPED)[:, None] * s_stride_r
    total = tl.zeros([N, M], dtype=tl.float32)
    for step in range(STEPS):
        index = first + step
        at = index * WIDTH + inner
        data = tl.load(w_ptr + col_at[:, None] * w_stride + at[None, :], mask=(at < num_bytes)[None, :], other=NOTHING)
        some = live[:, None] & (at < num_bytes)[None, :]
        x = tl.load(x_at + at[None, :], mask=some, other=0.0)
        if SCALED:
            s = _scales_at(s_at, index, num_groups, s_stride_g, SCALE_KIND, WORDS, COLS, N, K, GROUPS)
        if PER_BYTE == 2:
            low, high = _halves(data, s if SCALED else 0.0, KIND, PACKED, IN_CODES, dtype, N, GROUPS, WIDTH)
            odd = tl.load(odd_at + at[None, :], mask=some, other=0.0)
            # "ieee" is for float32, which else is cut to 19 bits; operands of 16 bits are multiplied as they are.
            part = tl.dot(low, tl.trans(x), input_precision="ieee")
            part = tl.dot(high, tl.trans(odd), part, input_precision="ieee")
        else:
            number = whole_bytes(data, KIND)
            if IN_CODES:
                number = number.to(tl.float32) * spread(s, N, GROUPS, WIDTH)
            part = tl.dot(number.to(dtype), tl.trans(x), input_precision="ieee")
        if SCALED and not IN_CODES:
            total += part * s
        else:
            total += part
    if PACKED:
        total *= 9223372036854775808.0
    return total


@kernel
def _few(
    x_ptr, w_ptr, y_ptr, s_ptr, row_ptr, factor_ptr, bias_ptr, num_tokens, num_rows, num_cols, x_stride, w_stride,
    s_stride_r, s_stride_g, KIND: tl.constexpr, PER_BYTE: tl.constexpr, SCALE_KIND: tl.constexpr,
    SCALED: tl.constexpr, BLOCK_N: tl.constexpr, COLS: tl.constexpr, MAPPED: tl.constexpr, WORDS: tl.constexpr,
    IN_CODES: tl.constexpr, HALF: tl.constexpr, FACTOR: tl.constexpr, BIASED: tl.constexpr, STEPS: tl.constexpr,
    SPLIT: tl.constexpr, PACKED: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, WAIT: tl.constexpr,
):  # fmt: skip
    if WAIT:
        gdc_wait()
    dtype: tl.constexpr = tl.float16 if HALF else tl.bfloat16
    rows, cols = tl.program_id(1) * M + tl.arange(0, M), tl.program_id(0) * N + tl.arange(0, N)
    # Rows of W beyond the end read the last one: their results are not stored.
    col_at = tl.minimum(cols, num_rows - 1).to(tl.int64)
    row_at = tl.minimum(rows, num_tokens - 1).to(tl.int64)
    total = products(
        x_ptr + row_at[:, None] * x_stride, x_ptr + (num_tokens + row_at)[:, None] * x_stride, rows < num_tokens, w_ptr,
        s_ptr, row_ptr, col_at, tl.program_id(2) * STEPS, num_cols, w_stride, s_stride_r, s_stride_g, dtype, KIND,
        PER_BYTE, SCALE_KIND, SCALED, BLOCK_N, COLS, MAPPED, WORDS, IN_CODES, STEPS, PACKED, M, N, K,
    )  # fmt: skip
    if FACTOR:
        total *= tl.load(factor_ptr + col_at)[:, None]
    store_tile(y_ptr, total, bias_ptr, rows, cols, num_tokens, num_rows, BIASED, SPLIT)
