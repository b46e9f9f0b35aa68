"""From copies to reads: which byte range of which file goes where, in the order of the files.

A copy whose rows are whole in the file and in the parameter is read straight into its place. What is narrower (a
row-parallel slice), wider in memory (a BF16 scale in an F32 parameter), or in another order in the file
goes through a small buffer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import NamedTuple, assert_never

import torch

from fp8load.boxes import Box, flat_range
from fp8load.dtypes import DType
from fp8load.index.index import TensorMeta
from fp8load.plan.plan import Copy
from fp8load.runtime.dtypes import as_bytes, stored_shape, torch_dtype
from fp8load.scheme import Repack
from fp8load.swizzle import TILE_COLS, TILE_ROWS, padded_shape

PAGE = 4096
"""Reads past the page cache begin and end at multiples of this, in files and in memory."""

CHUNK_NBYTES = (16 << 20) - 2 * PAGE
"""Largest single read: small enough that threads stay evenly busy and buffers small, large enough for full speed. With
a page on either side it fills a buffer of 16 MiB: pinned memory comes in powers of two."""


class Direct(NamedTuple):
    """Bytes `begin` onward of a file, straight into `target`, uint8 [n] on any device."""

    file: str
    begin: int
    target: torch.Tensor

    @property
    def end(self) -> int:
        """First byte after the range."""
        return self.begin + self.target.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes that are kept: all."""
        return self.target.shape[0]


@dataclass(slots=True)
class Staged:
    """A part of a tensor that passes through a buffer: `begin:end` of a file, then `place` puts it where it belongs.

    The bytes are rows of `shape`; `src` and `dst` are boxes in these rows and in `target`. `transposed`: the first axis
    of `shape` is the last of the parameter.
    """

    file: str
    begin: int
    end: int
    meta: TensorMeta
    shape: tuple[int, ...]
    src: Box
    target: torch.Tensor
    dst: Box
    cast: DType | None
    transposed: bool = False
    repack: Repack | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that are kept, of those that are read."""
        return self.src.num_elements * torch_dtype(self.meta.dtype).itemsize

    def place(self, data: torch.Tensor) -> None:
        """Cut the box out of the bytes that were read, uint8 [n] where the parameter is, and write it.

        `copy_` widens it where the plan says so.
        """
        ordered = data if self.repack is None else repacked(data, self.repack, self.shape[-1])
        dtype = torch_dtype(self.meta.dtype)
        if ordered.storage_offset() % dtype.itemsize:  # files need not align tensors
            ordered = ordered.clone()
        piece = ordered.view(dtype).reshape(self.shape)[self.src.slices()]
        if self.transposed:
            piece = piece.movedim(0, -1)
        view = self.target[self.dst.slices()] if self.dst.lo else self.target
        view.copy_(piece.reshape(view.shape))


def repacked(data: torch.Tensor, repack: Repack, num_cols: int) -> torch.Tensor:
    """Bytes as memory has them, uint8 [n]; what `fp8load.swizzle` does in numpy, on any device.

    `num_cols`: bytes of a row; of a swizzled scale, with its padding.
    """
    match repack:
        case Repack.UNSWIZZLE:
            tiles = data.reshape(-1, num_cols // TILE_COLS, 32, 4, TILE_COLS)
            return tiles.permute(0, 3, 2, 1, 4).reshape(-1)
        case Repack.SWAP_NIBBLES:
            return data >> 4 | data << 4
        case Repack.REMOVE_OFFSET:
            return data ^ 0x88
        case Repack.ORDER_WORDS:
            even, odd = data.reshape(-1, 2, 2).unbind(1)
            return torch.stack([even & 15 | odd << 4, even >> 4 | odd & 0xF0], dim=-1).reshape(-1)
        case _:
            assert_never(repack)


Segment = Direct | Staged


def segments(
    copies: Iterable[Copy], tensors: Mapping[str, TensorMeta], targets: Mapping[str, torch.Tensor]
) -> Iterator[Segment]:
    """Every read that the copies need, in the order of files and places, none longer than about `CHUNK_NBYTES`.

    Made tensor by tensor while the first are read already: a checkpoint has a hundred thousand.
    """
    of_tensor: dict[str, list[Copy]] = {}
    for copy in copies:
        if copy.src.num_elements:
            of_tensor.setdefault(copy.source, []).append(copy)
    memory: dict[str, torch.Tensor] = {}
    for meta in sorted((tensors[name] for name in of_tensor), key=lambda meta: (meta.file, meta.begin)):
        found: list[Segment] = []
        for copy in chain.from_iterable(map(_by_group, of_tensor[meta.name])):
            found.extend(_segments_of(copy, meta, targets[copy.param], memory))
        found.sort(key=lambda segment: segment.begin)
        yield from found


def _segments_of(
    copy: Copy, meta: TensorMeta, target: torch.Tensor, memory: dict[str, torch.Tensor]
) -> Iterator[Segment]:
    """`memory` keeps the bytes of each parameter that is read straight into."""
    if copy.repack is Repack.UNSWIZZLE:
        return _unswizzled(copy, meta, target)
    stored = _Stored.of(copy, meta)
    if copy.cast is None and copy.repack is None and not copy.transposed:
        source_range = flat_range(stored.src, stored.shape)
        target_range = flat_range(stored.dst, tuple(target.shape))
        if source_range is not None and target_range is not None:
            if copy.param not in memory:
                memory[copy.param] = as_bytes(target).reshape(-1)
            return _direct(meta, source_range[0], target_range, target.element_size(), memory[copy.param])
    return _staged(copy, stored, meta, target)


def _by_group(copy: Copy) -> Iterator[Copy]:
    """A copy of rows out of each of several groups of rows as one copy for each group, in rows of the tensor.

    So nothing but these rows is read. Single rows in turn, and columns that lie first, stay together: they are read
    with what lies between them.
    """
    swizzled = copy.repack is Repack.UNSWIZZLE
    if copy.view is None or copy.transposed or (copy.src.shape[1] == 1 and not swizzled):
        yield copy
        return
    groups, pitch, *rest = copy.view
    (first, begin, *lo), (last, end, *hi) = copy.src
    axis = len(copy.dst.lo) - len(rest) - 1
    at = copy.dst.lo[axis]
    for group in range(first, last):
        src = Box((group * pitch + begin, *lo), (group * pitch + end, *hi))
        dst = Box(_with(copy.dst.lo, axis, at), _with(copy.dst.hi, axis, at + end - begin))
        yield copy._replace(src=src, dst=dst, view=(groups * pitch, *rest))
        at += end - begin


class _Stored(NamedTuple):
    """A copy in units of memory, in which elements smaller than a byte are as many as fill one: the shape of the
    tensor's bytes as they lie in the file, the box in it, and the box in the parameter."""

    shape: tuple[int, ...]
    src: Box
    dst: Box

    @classmethod
    def of(cls, copy: Copy, meta: TensorMeta) -> _Stored:
        """Packed elements share bytes along the last axis of the parameter, which `transposed` puts first in the file.

        A scalar of a packed dtype, and a tensor whose rows do not fill whole bytes, have no such shape: `ValueError`.
        """
        dtype = meta.dtype
        shape = stored_shape(dtype, copy.view or meta.shape)
        src = Box(stored_shape(dtype, copy.src.lo), stored_shape(dtype, copy.src.hi))
        dst = Box(stored_shape(dtype, copy.dst.lo), stored_shape(dtype, copy.dst.hi))
        if copy.transposed:
            shape = (shape[-1], *shape[:-1])
            src = Box((src.lo[-1], *src.lo[:-1]), (src.hi[-1], *src.hi[:-1]))
        return cls(shape, src, dst)


def _direct(
    meta: TensorMeta, first: int, into: tuple[int, int], itemsize: int, memory: torch.Tensor
) -> Iterator[Direct]:
    """One range of bytes on both sides: element `first` onward of the tensor, elements `into` of the parameter."""
    begin, at = meta.begin + first * itemsize, into[0] * itemsize
    nbytes = (into[1] - into[0]) * itemsize
    for offset in range(0, nbytes, CHUNK_NBYTES):
        size = min(CHUNK_NBYTES, nbytes - offset)
        yield Direct(meta.file, begin + offset, memory[at + offset : at + offset + size])


def _staged(copy: Copy, stored: _Stored, meta: TensorMeta, target: torch.Tensor) -> Iterator[Staged]:
    """Chunks of whole rows of the source. Where rows of the source are no rows of the parameter, it is one chunk."""
    shape, src, dst = stored
    axis = len(dst.lo) - 1 if copy.transposed else _same_axis(src, dst)
    if not shape or axis is None:
        yield Staged(
            meta.file, meta.begin, meta.end, meta, shape, src, target, dst, copy.cast, copy.transposed, copy.repack
        )  # fmt: skip
        return
    row_nbytes = prod(shape[1:]) * (meta.nbytes // max(prod(shape), 1))
    step = max(1, CHUNK_NBYTES // max(row_nbytes, 1))
    row0, row1 = src.lo[0], src.hi[0]
    for row in range(row0, row1, step):
        stop = min(row + step, row1)
        begin = meta.begin + row * row_nbytes
        piece = Box((0, *src.lo[1:]), (stop - row, *src.hi[1:]))
        at = dst.lo[axis] + row - row0
        place = Box(_with(dst.lo, axis, at), _with(dst.hi, axis, at + stop - row))
        yield Staged(
            meta.file, begin, begin + (stop - row) * row_nbytes, meta, (stop - row, *shape[1:]), piece, target, place,
            copy.cast, copy.transposed, copy.repack,
        )  # fmt: skip


def _with(index: tuple[int, ...], axis: int, value: int) -> tuple[int, ...]:
    return (*index[:axis], value, *index[axis + 1 :])


def _same_axis(src: Box, dst: Box) -> int | None:
    """The axis of `dst` that the first axis of `src` becomes, where both hold their elements in the same order."""
    if [size for size in src.shape if size != 1] != [size for size in dst.shape if size != 1]:
        return None
    if not src.shape or src.shape[0] == 1:
        return 0 if src.shape and dst.shape and dst.shape[0] == 1 else None
    return next(axis for axis, size in enumerate(dst.shape) if size != 1)


def _unswizzled(copy: Copy, meta: TensorMeta, target: torch.Tensor) -> Iterator[Staged]:
    """Whole rows of tiles that hold the wanted rows of a swizzled scale, about `CHUNK_NBYTES` at a time."""
    num_cols = padded_shape((meta.shape[0], meta.shape[1]))[1]
    (row0, col0), (row1, col1) = copy.src
    step = max(1, CHUNK_NBYTES // (TILE_ROWS * num_cols)) * TILE_ROWS
    for tile_row in range(row0 // TILE_ROWS * TILE_ROWS, row1, step):
        stop = min(tile_row + step, padded_shape((row1, 1))[0])
        first, last = max(row0, tile_row), min(row1, stop)
        src = Box((first - tile_row, col0), (last - tile_row, col1))
        dst0 = copy.dst.lo[0] + first - row0
        dst = Box((dst0, *copy.dst.lo[1:]), (dst0 + last - first, *copy.dst.hi[1:]))
        begin, end = meta.begin + tile_row * num_cols, meta.begin + stop * num_cols
        shape = (stop - tile_row, num_cols)
        yield Staged(meta.file, begin, end, meta, shape, src, target, dst, None, False, copy.repack)
