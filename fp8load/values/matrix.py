"""A module's weight as rows of real numbers that can be asked for, wherever they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from fp8load.formats.lowered import ModuleInfo
from fp8load.scheme import Role
from fp8load.values.dequantize import Dequantizer, decoded, dequantizer_of
from fp8load.values.read import TURNED, bands, grid_of, turned

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray

    from fp8load.checkpoint import Checkpoint

WINDOW = 64 << 20
"""Bytes that are kept of a weight that lies columns first."""


class Matrix(Protocol):
    """Rows of float32."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ...

    def rows(self, begin: int, end: int) -> NDArray[float32]:
        """Rows `begin:end` [R, K]. A `SourceError` passes through."""
        ...


@dataclass(slots=False, kw_only=True)
class StoredMatrix:
    """One module's weight, dequantized. Of a weight that lies columns first a window of rows is kept, as it is stored:
    whoever asks for rows in their order has it read once for each window."""

    checkpoint: Checkpoint
    info: ModuleInfo
    made: Dequantizer
    _begin: int = field(default=0, init=False)
    _window: NDArray[uint8] | None = field(default=None, init=False)

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Rows and columns; axes before the last one are rows."""
        meta = self.info.tensors[Role.WEIGHT]
        num_rows, row_nbytes = grid_of(meta)
        return num_rows, row_nbytes * 8 // meta.dtype.bits

    def rows(self, begin: int, end: int) -> NDArray[float32]:
        """See `Matrix`."""
        import numpy as np

        meta = self.info.tensors[Role.WEIGHT]
        raw = self._across(begin, end) if Role.WEIGHT in self.info.transposed else self._along(begin, end)
        return self.made.real(decoded(meta.dtype, raw), np.arange(begin, end))

    def _along(self, begin: int, end: int) -> NDArray[uint8]:
        """Rows that lie one behind the other."""
        meta = self.info.tensors[Role.WEIGHT]
        _, row_nbytes = grid_of(meta)
        first = meta.begin + begin * row_nbytes
        asked = meta._replace(
            shape=(end - begin, self.shape[1]), begin=first, end=first + (end - begin) * row_nbytes
        )  # fmt: skip
        ((_, raw),) = bands(self.checkpoint, asked, columns_first=False, nbytes=asked.nbytes)
        return raw

    def _across(self, begin: int, end: int) -> NDArray[uint8]:
        """Rows of which the file has a piece in every column: from the window, or from another that begins there."""
        window = self._window
        if window is None or begin < self._begin or end > self._begin + len(window):
            meta = self.info.tensors[Role.WEIGHT]
            num_rows, row_nbytes = grid_of(meta)
            self._window = None  # before the next one is made: one is held at a time
            last = min(num_rows, max(end, begin + WINDOW // row_nbytes))
            window = self._window = turned(self.checkpoint, meta, begin, last, nbytes=WINDOW // TURNED)
            self._begin = begin
        return window[begin - self._begin : end - self._begin]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some rows of another matrix: one member of a layer that is stored fused."""

    whole: Matrix
    begin: int
    num_rows: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.num_rows, self.whole.shape[1]

    def rows(self, begin: int, end: int) -> NDArray[float32]:
        """See `Matrix`."""
        return self.whole.rows(self.begin + begin, self.begin + end)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Members of a fused layer, one below the other."""

    parts: Sequence[Matrix]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    def rows(self, begin: int, end: int) -> NDArray[float32]:
        """See `Matrix`."""
        import numpy as np

        found, at = [], 0
        for part in self.parts:
            num_rows = part.shape[0]
            first, last = max(begin - at, 0), min(end - at, num_rows)
            if first < last:
                found.append(part.rows(first, last))
            at += num_rows
        return found[0] if len(found) == 1 else np.concatenate(found)


def matrix_of(checkpoint: Checkpoint, module: str) -> StoredMatrix | None:
    """A module's weight, None where there is none or it cannot be dequantized."""
    info = checkpoint.lowered.modules.get(module)
    if info is None or not info.tensors[Role.WEIGHT].nbytes:
        return None
    made = dequantizer_of(checkpoint, info)
    return None if made is None else StoredMatrix(checkpoint=checkpoint, info=info, made=made)
