"""A matrix's bytes with rows and columns swapped, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fp8load.index.index import TensorMeta
from fp8load.source.base import Source
from fp8load.writing.shard import pieces

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

BAND = 64 << 20
"""Bytes of the transpose that are held at once. The matrix is read once for each band: disks do that faster than they
find single elements."""


def transposed(source: Source, meta: TensorMeta) -> Iterator[bytes]:
    """[N, K] as it lies in the file -> the bytes of [K, N]; elements of whole bytes."""
    num_rows, num_cols = meta.shape
    width = meta.dtype.bits // 8
    step = max(1, BAND // max(1, num_rows * width))
    for begin in range(0, num_cols, step):
        yield _band(source, meta, begin, min(begin + step, num_cols)).tobytes()


def _band(source: Source, meta: TensorMeta, begin: int, end: int) -> NDArray[uint8]:
    """Columns of the matrix, as rows: [end - begin, N, width]."""
    import numpy as np

    num_rows, num_cols = meta.shape
    width = meta.dtype.bits // 8
    out = np.empty((end - begin, num_rows, width), np.uint8)
    row_nbytes, rest, at = num_cols * width, b"", 0
    for data in pieces(source, meta):
        rest += data
        count = len(rest) // row_nbytes
        block = np.frombuffer(rest, np.uint8, count * row_nbytes).reshape(count, num_cols, width)
        out[:, at : at + count] = block[:, begin:end].transpose(1, 0, 2)
        at, rest = at + count, rest[count * row_nbytes :]
    return out
