"""A tensor's bytes in pieces: flat, or in bands of whole rows, as memory would have them. Bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

from fp8load.errors import NetworkError, Problem
from fp8load.index.index import TensorMeta
from fp8load.scheme import Repack
from fp8load.swizzle import TILE_ROWS, packed_in_order, padded_shape, row_major

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

    from fp8load.checkpoint import Checkpoint

TURNED = 16
"""Bands of a weight that lies columns first which are held at once. Fewer take less memory, and reading the weight more
often: of bands of 4 MiB, one expert's weight is read once if it has up to 64 MiB."""

WORD = 4
"""Bytes that a repacking takes together: pieces of packed columns hold a multiple."""

TILE = 64
"""Rows that are turned at once."""


def pieces(checkpoint: Checkpoint, meta: TensorMeta, nbytes: int) -> Iterator[bytes]:
    """The bytes as they lie in the file, `nbytes` at a time. Raises `NetworkError` where the file ends too early."""
    for begin in range(meta.begin, meta.end, nbytes):
        end = min(begin + nbytes, meta.end)
        data = checkpoint.source.read(meta.file, begin, end)
        if len(data) != end - begin:
            raise _too_short(meta, end - begin, len(data))
        yield data


def _too_short(meta: TensorMeta, num_wanted: int, num_read: int) -> NetworkError:
    return NetworkError(Problem(
        code="SRC006", message="the file is shorter than its header said", tensor=meta.name, file=meta.file,
        expected=f"{num_wanted} bytes", got=f"{num_read} bytes"))  # fmt: skip


def together(checkpoint: Checkpoint, metas: Sequence[TensorMeta]) -> bytes:
    """The bytes of several small tensors, one tensor behind the other. Those that lie so in the file are one read.

    Writers that sort by dtype, as safetensors itself does, put all scales of a file side by side.
    """
    cuts = [at for at, (one, next_) in enumerate(pairwise(metas), 1)
            if one.end != next_.begin or one.file != next_.file]  # fmt: skip
    return b"".join([_read_run(checkpoint, metas[begin:end]) for begin, end in pairwise([0, *cuts, len(metas)])])


def _read_run(checkpoint: Checkpoint, run: Sequence[TensorMeta]) -> bytes:
    begin, end = run[0].begin, run[-1].end
    data = checkpoint.source.read(run[0].file, begin, end)
    if len(data) != end - begin:
        cut = next(meta for meta in run if meta.end - begin > len(data))
        raise _too_short(cut, cut.nbytes, max(0, begin + len(data) - cut.begin))
    return data


def in_rows(checkpoint: Checkpoint, meta: TensorMeta, nbytes: int) -> Iterator[bytes]:
    """One tensor's bytes, about `nbytes` at a time; of a swizzled scale in rows and without padding."""
    if checkpoint.lowered.repacks.get(meta.name) is not Repack.UNSWIZZLE:
        yield from pieces(checkpoint, meta, nbytes)
        return
    num_rows, num_cols = meta.shape
    padded_cols = padded_shape((num_rows, num_cols))[1]
    step = max(1, nbytes // (TILE_ROWS * padded_cols)) * TILE_ROWS
    for at, data in enumerate(pieces(checkpoint, meta, step * padded_cols)):
        yield row_major(data, padded_cols)[: num_rows - at * step, :num_cols].tobytes()


def grid_of(meta: TensorMeta) -> tuple[int, int]:
    """Rows, and bytes of a row, of a tensor of any number of axes: the last one is the row."""
    num_rows = prod(meta.shape[:-1]) if meta.shape else 1
    return num_rows, meta.nbytes // max(num_rows, 1)


def bands(
    checkpoint: Checkpoint, meta: TensorMeta, *, columns_first: bool, nbytes: int
) -> Iterator[tuple[int, NDArray[uint8]]]:
    """(first row, bytes [R, row]) of a weight: nibbles low first, signed integers, rows in order.

    About `nbytes` at a time, and at least a row. Where the file has columns first, `TURNED` bands are held, and the
    weight is read once for each `TURNED * nbytes` of it.
    """
    num_rows, row_nbytes = grid_of(meta)
    if not meta.nbytes:
        return
    step = max(1, nbytes // row_nbytes)
    if not columns_first:
        for at, data in enumerate(pieces(checkpoint, meta, step * row_nbytes)):
            yield at * step, _in_order(checkpoint, meta, data).reshape(-1, row_nbytes)
        return
    for begin in range(0, num_rows, TURNED * step):
        rows = turned(checkpoint, meta, begin, min(begin + TURNED * step, num_rows), nbytes=nbytes)
        for at in range(0, len(rows), step):
            yield begin + at, rows[at : at + step].copy()  # a view would keep all of these while the next are read
        del rows


def turned(checkpoint: Checkpoint, meta: TensorMeta, begin: int, end: int, *, nbytes: int) -> NDArray[uint8]:
    """Rows `begin:end` [R, row] of a weight that lies columns first; elements of several bytes stay together.

    Reads all of the weight, about `nbytes` at a time: a row is one element out of every column, and a column's part of
    some rows is so short that asking for each alone takes longer, over a network above all.
    """
    import numpy as np

    num_rows, row_nbytes = grid_of(meta)
    width = max(1, meta.dtype.bits // 8)
    rows = np.empty((end - begin, row_nbytes // width, width), np.uint8)
    step = max(1, nbytes // (num_rows * width * WORD)) * WORD
    for at, data in enumerate(pieces(checkpoint, meta, step * num_rows * width)):
        columns = _in_order(checkpoint, meta, data).reshape(-1, num_rows, width)
        into = rows[:, at * step : at * step + len(columns)]
        for first in range(begin, end, TILE):  # a tile of its own fits the processor's cache: five times as fast
            tile = np.ascontiguousarray(columns[:, first : min(first + TILE, end)])
            into[first - begin : first - begin + TILE] = tile.transpose(1, 0, 2)
    found = rows.reshape(end - begin, row_nbytes)
    found.flags.writeable = False  # as what comes out of a file is: numbers of 4 bytes are views of these
    return found


def _in_order(checkpoint: Checkpoint, meta: TensorMeta, data: bytes) -> NDArray[uint8]:
    """The bytes with packed elements as memory would have them; whole words of them."""
    import numpy as np

    raw = np.frombuffer(data, np.uint8)
    repack = checkpoint.lowered.repacks.get(meta.name)
    return raw if repack is None else packed_in_order(raw, repack)
