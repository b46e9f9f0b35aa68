"""x @ W.T where only W is quantized, in Triton: FP8, INT8, FP4 and INT4, unpacked in the kernel.

Floor for few tokens: the bytes of W over the bandwidth. For many tokens W is unpacked once, some rows at a time so that
they stay in the L2, and multiplied by torch's product of 16 bits, which is bound by its operations.

Codes become F16, exactly. Scales of blocks multiply the sum over a block's columns, in float32. Those of groups of 16
or 32 columns multiply the codes, where that is exact in x's dtype (E4M3 on E2M1: six bits of mantissa; E8M0: none, but
only BF16 has the exponents); else the sum over a group.

Shape letters: M rows (tokens), N weight rows, K columns, R rows of the grid of scales, G = ceil(K / g) groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from fp8load_kernels.gpu.decode import e2m1_times, nibbles, scales, whole_bytes
from fp8load_kernels.gpu.launch import Constants, Plan, kernel, overlaps
from fp8load_kernels.gpu.tiles import Tile, num_processors, put_pieces_together, splits_of

ROWS = 32
"""Rows of W that a program unpacks."""

PACKED = ("e2m1", "i4")
"""Kinds of which a byte has two."""

PIECE = 24 << 20
"""Bytes of unpacked rows that are multiplied at once: half of the L2 of an H200."""


class Coded(NamedTuple):
    """A weight [N, K] as it is stored.

    codes      bytes [N, K], or [N, K / 2] with the even element in the low half; FP8 under its own dtype or as bytes
    kind       "hardware" where the GPU converts the dtype of `codes`; else "e4m3", "e5m2", "i8", "e2m1", "i4"
    scale      [R, G] with any strides: floats, or bytes of `scale_kind` "e8m0" or "e4m3"; None where `factor` is all
    block      rows and columns of W for a scale; columns are a power of two of at least 16
    row_of     int32 [N]: which row of the grid a row of W has, where that is not its number over the block's rows
    factor     float32 [N]: what each row of the product is multiplied by in the end; None for nothing
    """

    codes: torch.Tensor
    kind: str
    shape: tuple[int, int]
    scale: torch.Tensor | None = None
    scale_kind: str = "float"
    block: tuple[int, int] = (1, 1)
    row_of: torch.Tensor | None = None
    factor: torch.Tensor | None = None

    @property
    def per_byte(self) -> int:
        """Elements in a byte."""
        return 2 if self.kind in PACKED else 1

    def multiplies_codes(self, dtype: torch.dtype) -> bool:
        """Whether scales multiply codes, which is exact then, rather than sums over a group. For x of `dtype`."""
        if self.scale is None or self.block[1] >= 64:
            return False
        return self.scale_kind == "e4m3" or (self.scale_kind == "e8m0" and dtype == torch.bfloat16)


def tile_of(num_tokens: int, w: Coded, dtype: torch.dtype, processors: int) -> Tile:
    """By size alone: measured on an H200, see docs/benchmarks."""
    num_rows, num_cols = w.shape
    m = 16 if num_tokens <= 16 else 32 if num_tokens <= 32 else 64
    n, programs = (64, 5 * processors) if m < 64 else (128, 3 * processors // 2)
    k = 128 * w.per_byte
    if w.scale is not None and not w.multiplies_codes(dtype):
        k = min(k, w.block[1])
    tiles = triton.cdiv(num_rows, n) * triton.cdiv(num_tokens, m)
    return Tile(m, n, k, splits_of(tiles, triton.cdiv(num_cols, k), programs), n // 16, 3)


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
    tile = tile or tile_of(num_tokens, w, dtype, num_processors(x_MK.device))
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


@cache
def _unpacking(kind: str, scale_kind: str, block: tuple[int, int], *, mapped: bool, factor: bool) -> Constants:
    per_byte = 2 if kind in PACKED else 1
    return Constants(
        KIND=kind, PER_BYTE=per_byte, SCALE_KIND=scale_kind, SCALED=bool(scale_kind), BLOCK_N=block[0], COLS=block[1],
        MAPPED=mapped, FACTOR=factor, N=ROWS, K=128 * per_byte, num_warps=4,
    )  # fmt: skip


def unpacked(w: Coded, dtype: torch.dtype, first: int = 0, last: int | None = None) -> torch.Tensor:
    """Rows `first` to `last` of W in `dtype`: code * scale * factor in float32, rounded once."""
    num_rows, num_cols = (w.shape[0] if last is None else last) - first, w.shape[1]
    out = torch.empty(num_rows, num_cols, dtype=dtype, device=w.codes.device)
    codes, strides, cols = w.codes, (0, 0) if w.scale is None else w.scale.stride(), 128 * w.per_byte
    if out.numel():
        _unpacked(
            (triton.cdiv(num_rows, ROWS), triton.cdiv(num_cols, cols), 1),
            (codes, out, codes if w.scale is None else w.scale, codes if w.row_of is None else w.row_of,
             codes if w.factor is None else w.factor),
            (first, first + num_rows, num_cols, codes.stride(0), *strides),
            _unpacking(w.kind, "" if w.scale is None else w.scale_kind, w.block, mapped=w.row_of is not None,
                       factor=w.factor is not None),
        )  # fmt: skip
    return out


def many_tokens(x_MK: torch.Tensor, w: Coded, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x [M, K] -> [M, N] in x's dtype, of any float dtype: W in x's dtype, some rows at a time, by torch's product.

    Beside the result it takes `PIECE` bytes of memory.
    """
    y_MN = x_MK.new_empty(x_MK.shape[0], w.shape[0])
    for first, last in _pieces(w.shape, x_MK.dtype.itemsize):
        w_KN = unpacked(w, x_MK.dtype, first, last).t()
        out = y_MN[:, first:last]
        if bias is None:
            torch.mm(x_MK, w_KN, out=out)
        else:
            torch.addmm(bias[first:last].to(x_MK.dtype), x_MK, w_KN, out=out)
    return y_MN


def _pieces(shape_NK: tuple[int, int], itemsize: int) -> Iterator[tuple[int, int]]:
    """Rows of about `PIECE` bytes, all of them multiples of 128 but the last."""
    num_rows, num_cols = shape_NK
    height = max(128, PIECE // max(1, num_cols * itemsize) // 128 * 128)
    for first in range(0, num_rows, height):
        yield first, min(first + height, num_rows)


@triton.jit
def _grid_row(row_ptr, at, BLOCK_N: tl.constexpr, MAPPED: tl.constexpr):
    """In which row of the grid of scales the scales of rows `at` of W stand."""
    return tl.load(row_ptr + at).to(tl.int64) if MAPPED else at // BLOCK_N


@triton.jit
def _spread(s, N: tl.constexpr, GROUPS: tl.constexpr, K: tl.constexpr):
    """Scales [N, GROUPS] repeated to [N, K]."""
    if GROUPS == K:
        return s
    return tl.reshape(tl.broadcast_to(s[:, :, None], [N, GROUPS, K // GROUPS]), [N, K])


@kernel
def _few(
    x_ptr, w_ptr, y_ptr, s_ptr, row_ptr, factor_ptr, bias_ptr, num_tokens, num_rows, num_cols, x_stride, w_stride,
    s_stride_r, s_stride_g, KIND: tl.constexpr, PER_BYTE: tl.constexpr, SCALE_KIND: tl.constexpr,
    SCALED: tl.constexpr, BLOCK_N: tl.constexpr, COLS: tl.constexpr, MAPPED: tl.constexpr, WORDS: tl.constexpr,
    IN_CODES: tl.constexpr, HALF: tl.constexpr, FACTOR: tl.constexpr, BIASED: tl.constexpr, STEPS: tl.constexpr,
    SPLIT: tl.constexpr,
    PACKED: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, WAIT: tl.constexpr,
):  # fmt: skip
    if WAIT:
        gdc_wait()
    dtype: tl.constexpr = tl.float16 if HALF else tl.bfloat16
    WIDTH: tl.constexpr = K // PER_BYTE
    NOTHING: tl.constexpr = 0.0 if KIND == "hardware" else 0  # of the codes' own type
    GROUPS: tl.constexpr = max(1, K // COLS) if SCALED else 1
    rows, cols = tl.program_id(1) * M + tl.arange(0, M), tl.program_id(0) * N + tl.arange(0, N)
    # Rows of W beyond the end read the last one: their results are not stored.
    col_at = tl.minimum(cols, num_rows - 1).to(tl.int64)
    row_at = tl.minimum(rows, num_tokens - 1).to(tl.int64)
    inner, groups = tl.arange(0, WIDTH), tl.arange(0, GROUPS)
    num_bytes, num_groups = num_cols // PER_BYTE, tl.cdiv(num_cols, COLS)
    if SCALED:
        s_at = s_ptr + _grid_row(row_ptr, col_at, BLOCK_N, MAPPED)[:, None] * s_stride_r
    total = tl.zeros([N, M], dtype=tl.float32)
    for step in range(STEPS):
        index = tl.program_id(2) * STEPS + step
        at = index * WIDTH + inner
        data = tl.load(w_ptr + col_at[:, None] * w_stride + at[None, :], mask=(at < num_bytes)[None, :], other=NOTHING)
        some = (rows < num_tokens)[:, None] & (at < num_bytes)[None, :]
        x = tl.load(x_ptr + row_at[:, None] * x_stride + at[None, :], mask=some, other=0.0)
        if SCALED:
            if WORDS:
                word = tl.minimum(index * (GROUPS // 4) + tl.arange(0, GROUPS // 4), num_groups // 4 - 1)
                four = tl.load(s_at + word[None, :] * s_stride_g)
                bits = (four[:, :, None] >> (tl.arange(0, 4) * 8)[None, None, :]) & 255
                s = scales(tl.reshape(bits, [N, GROUPS]), SCALE_KIND)
            else:
                group = tl.minimum(index * K // COLS + groups, num_groups - 1)
                s = scales(tl.load(s_at + group[None, :] * s_stride_g), SCALE_KIND)
        if PER_BYTE == 2:
            if PACKED:
                low, high = e2m1_times(data, _spread((s * 9223372036854775808.0).to(dtype), N, GROUPS, WIDTH))
            else:
                bits = data.to(tl.int16)
                low, high = nibbles(bits & 15, KIND), nibbles((bits >> 4) & 15, KIND)
                if IN_CODES:
                    wide = _spread(s, N, GROUPS, WIDTH)
                    low, high = low.to(tl.float32) * wide, high.to(tl.float32) * wide
            odd = tl.load(x_ptr + (num_tokens + row_at)[:, None] * x_stride + at[None, :], mask=some, other=0.0)
            part = tl.dot(low.to(dtype), tl.trans(x))
            part = tl.dot(high.to(dtype), tl.trans(odd), part)
        else:
            number = whole_bytes(data, KIND)
            if IN_CODES:
                number = number.to(tl.float32) * _spread(s, N, GROUPS, WIDTH)
            part = tl.dot(number.to(dtype), tl.trans(x))
        if SCALED and not IN_CODES:
            total += part * s
        else:
            total += part
    if PACKED:
        total *= 9223372036854775808.0  # 2 ** 63, as the scales: together they undo the codes' 2 ** -126
    if FACTOR:
        total *= tl.load(factor_ptr + col_at)[:, None]
    if BIASED:
        total += tl.load(bias_ptr + col_at).to(tl.float32)[:, None]
    keep = (cols < num_rows)[:, None] & (rows < num_tokens)[None, :]
    to = rows.to(tl.int64)[None, :] * num_rows + cols[:, None]
    if SPLIT:
        to += tl.program_id(2).to(tl.int64) * num_tokens * num_rows
    tl.store(y_ptr + to, total.to(y_ptr.dtype.element_ty), mask=keep)


@kernel
def _unpacked(
    w_ptr, out_ptr, s_ptr, row_ptr, factor_ptr, first, last, num_cols, w_stride, s_stride_r, s_stride_g,
    KIND: tl.constexpr, PER_BYTE: tl.constexpr, SCALE_KIND: tl.constexpr, SCALED: tl.constexpr,
    BLOCK_N: tl.constexpr, COLS: tl.constexpr, MAPPED: tl.constexpr, FACTOR: tl.constexpr,
    N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    WIDTH: tl.constexpr = K // PER_BYTE
    NOTHING: tl.constexpr = 0.0 if KIND == "hardware" else 0  # of the codes' own type
    GROUPS: tl.constexpr = max(1, K // COLS) if SCALED else 1
    rows = first + tl.program_id(0) * N + tl.arange(0, N)
    row_at = tl.minimum(rows, last - 1).to(tl.int64)
    at, start = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH), tl.program_id(1) * K
    inside = (at < num_cols // PER_BYTE)[None, :]
    data = tl.load(w_ptr + row_at[:, None] * w_stride + at[None, :], mask=inside, other=NOTHING)
    if PER_BYTE == 2:
        bits = data.to(tl.int16)
        number = tl.interleave(nibbles(bits & 15, KIND), nibbles((bits >> 4) & 15, KIND)).to(tl.float32)
    else:
        number = whole_bytes(data, KIND).to(tl.float32)
    if SCALED:
        group = tl.minimum(start // COLS + tl.arange(0, GROUPS), tl.cdiv(num_cols, COLS) - 1)
        s_at = s_ptr + _grid_row(row_ptr, row_at, BLOCK_N, MAPPED)[:, None] * s_stride_r
        number *= _spread(scales(tl.load(s_at + group[None, :] * s_stride_g), SCALE_KIND), N, GROUPS, K)
    if FACTOR:
        number *= tl.load(factor_ptr + row_at)[:, None]
    cols = start + tl.arange(0, K)
    to = (rows - first).to(tl.int64)[:, None] * num_cols + cols[None, :]
    keep = (rows < last)[:, None] & (cols < num_cols)[None, :]
    tl.store(out_ptr + to, number.to(out_ptr.dtype.element_ty), mask=keep)
