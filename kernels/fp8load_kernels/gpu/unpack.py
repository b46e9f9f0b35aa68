"""Quantized weights as numbers, and their products with many tokens.

For many tokens W is unpacked once, some rows at a time so that they stay in the L2, and multiplied by torch's product,
which is bound by its operations. Floor of unpacking: the bytes of W, and those of its rows, over the bandwidth.

Shape letters: M rows (tokens), N weight rows, K columns, R rows of the grid of scales, G = ceil(K / g) groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from fp8load_kernels.gpu.decode import nibbles, scales, whole_bytes
from fp8load_kernels.gpu.launch import constants, kernel
from fp8load_kernels.gpu.tiles import grid_row

PIECE = 24 << 20
"""Bytes of unpacked rows that are multiplied at once: half of the L2 of an H200."""

ROWS = 32
"""Rows of W that a program unpacks."""

PACKED = ("e2m1", "i4")
"""Kinds of which a byte has two."""


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
            constants(
                KIND=w.kind, PER_BYTE=w.per_byte, SCALE_KIND=w.scale_kind, SCALED=w.scale is not None,
                BLOCK_N=w.block[0], COLS=w.block[1], MAPPED=w.row_of is not None, FACTOR=w.factor is not None, N=ROWS,
                K=cols, num_warps=4,
            ),
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
def spread(s, N: tl.constexpr, GROUPS: tl.constexpr, K: tl.constexpr):
    """Scales [N, GROUPS] repeated to [N, K]."""
    if GROUPS == K:
        return s
    return tl.reshape(tl.broadcast_to(s[:, :, None], [N, GROUPS, K // GROUPS]), [N, K])


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
        s_at = s_ptr + grid_row(row_ptr, row_at, BLOCK_N, MAPPED)[:, None] * s_stride_r
        number *= spread(scales(tl.load(s_at + group[None, :] * s_stride_g), SCALE_KIND), N, GROUPS, K)
    if FACTOR:
        number *= tl.load(factor_ptr + row_at)[:, None]
    cols = start + tl.arange(0, K)
    to = (rows - first).to(tl.int64)[:, None] * num_cols + cols[None, :]
    keep = (rows < last)[:, None] & (cols < num_cols)[None, :]
    tl.store(out_ptr + to, number.to(out_ptr.dtype.element_ty), mask=keep)
