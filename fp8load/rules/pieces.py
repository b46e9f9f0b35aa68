"""Whether a weight's scales are its own: each piece of a weight beside the scale that it has.

A quantizer gives a piece (a row, a block, a group) the scale amax / largest code. Where a piece has an outlier, its
scale is large and its other codes are small: over the pieces of one weight, log(scale) and log(rms of the codes) go
against each other, however the pieces differ in size. Scales of another weight know nothing of these codes. On trained
matrices the correlation is -0.3 to -0.9 with a weight's own scales, and 0 with another's.
"""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING, NamedTuple

from fp8load.dtypes import DType
from fp8load.scheme import PerBlock, PerGroup
from fp8load.values.dequantize import Dequantizer, decoded, rows_of_scale

if TYPE_CHECKING:
    from numpy import float64, intp, uint8
    from numpy.typing import NDArray

NUM_ELEMENTS = 1 << 17
"""Elements of a weight that are looked at."""

ROW_ELEMENTS = 256
"""Of a row with a scale of its own: enough for its root mean square, and more rows instead."""

BLOCK_ROWS = 8
"""Of a block."""

MIN_PIECES = 16
"""Fewer show nothing."""


class Fit(NamedTuple):
    """How scales and codes of a weight go together.

    num          pieces that were compared
    level        mean of log2(scale)
    correlation  of log2(scale) and log2(rms of the codes), -1 to 1; NaN where there are too few pieces, or all alike
    """

    num: int = 0
    level: float = nan
    correlation: float = nan


class Pieces:
    """Sums of squares of codes, for scales that are evenly spread over a weight [N, K]."""

    def __init__(self, dtype: DType, made: Dequantizer, shape: tuple[int, int]) -> None:
        self._dtype, self._made = dtype, made
        granularity = made.granularity
        num_rows, num_cols = shape
        self._width = granularity.cols if isinstance(granularity, PerBlock | PerGroup) else num_cols
        self._height = granularity.rows if isinstance(granularity, PerBlock) else 1
        # Rows with one scale: every so manieth byte of them, where elements fill bytes.
        whole = isinstance(granularity, PerBlock | PerGroup) or dtype.bits == 6
        self._byte_step = 1 if whole else max(1, num_cols // ROW_ELEMENTS)
        self._row_step = max(1, self._height // BLOCK_ROWS)
        taken = min(self._height, num_rows) // self._row_step * (num_cols // self._byte_step)
        num_scale_rows = -(-num_rows // self._height)
        self._step = max(1, num_scale_rows * taken // NUM_ELEMENTS)
        self._rows: list[NDArray[intp]] = []
        self._sums: list[NDArray[float64]] = []
        self._counts: NDArray[float64] | None = None

    def add(self, begin: int, raw: NDArray[uint8]) -> None:
        """A band of rows, as bytes [R, B]."""
        import numpy as np

        rows = np.arange(begin, begin + len(raw))
        of_scale = rows // self._height
        chosen = np.flatnonzero((of_scale % self._step == 0) & (rows % self._height % self._row_step == 0))
        if not chosen.size:
            return
        codes = decoded(self._dtype, raw[chosen[:, None], np.arange(0, raw.shape[1], self._byte_step)])
        starts = np.arange(0, codes.shape[1], self._width)
        with np.errstate(all="ignore"):
            self._sums.append(np.add.reduceat(np.square(codes), starts, axis=1, dtype=np.float64))
        self._rows.append(of_scale[chosen])
        self._counts = np.diff([*starts, codes.shape[1]]).astype(np.float64)

    def compared(self) -> tuple[NDArray[float64], NDArray[float64]]:
        """log2 of the scales, and of the root mean squares of their codes, piece by piece; infinite or NaN where one is
        zero or no number."""
        import numpy as np

        if self._counts is None or self._made.granularity is None:
            return np.zeros(0), np.zeros(0)
        rows, starts, counts = np.unique(np.concatenate(self._rows), return_index=True, return_counts=True)
        first = rows_of_scale(self._made.granularity, rows * self._height)
        sums = np.add.reduceat(np.concatenate(self._sums), starts, axis=0)  # bands come in order
        squares = sums / (counts[:, None] * self._counts)
        with np.errstate(all="ignore"):
            scales = np.log2(self._made.scales_of(first).astype(np.float64))
            sizes = np.log2(squares) / 2
        return np.broadcast_to(scales, sizes.shape).reshape(-1), sizes.reshape(-1)

    def fit(self) -> Fit:
        """What the pieces show."""
        scales, sizes = finite(*self.compared())
        level = float(scales.mean()) if scales.size else nan
        return Fit(scales.size, level, correlated(scales, sizes))


def finite(*pieces: NDArray[float64]) -> tuple[NDArray[float64], ...]:
    """The pieces at which all of these are finite."""
    import numpy as np

    good = np.logical_and.reduce([np.isfinite(each) for each in pieces])
    return tuple(each[good] for each in pieces)


def correlated(scales: NDArray[float64], sizes: NDArray[float64]) -> float:
    """The correlation; NaN of fewer than `MIN_PIECES`, and where one of the two does not vary."""
    import numpy as np

    if scales.size < MIN_PIECES or scales.std() < 1e-6 or sizes.std() < 1e-6:
        return nan
    return float(np.corrcoef(scales, sizes)[0, 1])
