"""What rules need to know of one scale's values, measured chunk by chunk at the speed of memory.

Codes of positive floats grow with their values, in every dtype that scales have. So the smallest and the largest code,
taken as whole numbers, tell whether all is sound; only a chunk that is not is decoded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate, repeat
from math import log2
from typing import TYPE_CHECKING, Any, NamedTuple

from fp8load.dtypes import DType, decode
from fp8load.index.index import TensorMeta
from fp8load.values.medians import upper_medians

if TYPE_CHECKING:
    from numpy import bool_, float32, float64, intp
    from numpy.typing import NDArray

LARGEST_EXPONENT_BYTE = 254
"""The largest byte that is an exponent in E8M0; 255 is a NaN."""

DEAD = 1e-15
"""Positive scales below are of blocks that hold nothing: weights of such a block are below 1e-12."""

NUM_SAMPLES = 4096
"""Elements that a median is taken of, evenly spread; everything else is counted over all elements."""

_CODES: dict[DType, tuple[str, int, int, int]] = {
    DType.F64: ("<u8", 1, 0x3CD203AF9EE75616, 0x7FEFFFFFFFFFFFFF), DType.F32: ("<u4", 1, 0x26901D7D, 0x7F7FFFFF),
    DType.F16: ("<u2", 1, 1, 0x7BFF), DType.BF16: ("<u2", 1, 0x2691, 0x7F7F),
    DType.F8_E4M3: ("u1", 1, 1, 0x7E), DType.F8_E5M2: ("u1", 1, 1, 0x7B),
    DType.F8_E8M0: ("u1", 0, 78, LARGEST_EXPONENT_BYTE),
    DType.F8_E4M3FNUZ: ("u1", 1, 1, 0x7F), DType.F8_E5M2FNUZ: ("u1", 1, 1, 0x7F),
}  # fmt: skip
"""dtype -> whole numbers of its size; codes of the smallest positive value, the first from `DEAD`, the largest."""

MEASURED = frozenset(_CODES)
"""Dtypes of scales that are numbers: floats of 16 bits and more, and every 8-bit float."""

_MANTISSA_BITS: dict[DType, int] = {DType.F64: 52, DType.F32: 23, DType.F16: 10, DType.BF16: 7}
"""Of float scales: without them a normal number is a power of two."""


class ScaleStats(NamedTuple):
    """What rules need to know of one scale's values. `first_*` are flat positions, -1 where there is none.

    `num_uneven` counts values that are no power of two, `num_whole` those that are whole numbers from 1 to 254; both
    only of float scales that are powers of two by rule, else 0.
    `smallest` and `largest` are of the finite values, NaN without any; `median_log2` of the positive ones, of a sample
    where there are many. `num_dead` counts positive values below `DEAD`.
    """

    meta: TensorMeta
    smallest: float = float("nan")
    largest: float = float("nan")
    median_log2: float = float("nan")
    num_nan: int = 0
    num_inf: int = 0
    num_zero: int = 0
    num_negative: int = 0
    first_not_finite: int = -1
    first_not_positive: int = -1
    num_uneven: int = 0
    num_whole: int = 0
    first_uneven: int = -1
    num_dead: int = 0
    first_dead: int = -1

    @property
    def is_sound(self) -> bool:
        """Whether there are elements, and all of them are finite and positive."""
        return self.first_not_finite < 0 and self.first_not_positive < 0 and self.smallest == self.smallest

    @property
    def constant(self) -> float | None:
        """The number that every element is, else None."""
        return self.smallest if self.is_sound and self.smallest == self.largest else None

    def position(self, flat: int) -> list[int]:
        """A flat position as an index along each axis."""
        place: list[int] = []
        for size in reversed(self.meta.shape):
            place.insert(0, flat % size)
            flat //= size
        return place


def measured(meta: TensorMeta, chunks: Iterable[bytes], *, must_be_powers: bool = False) -> ScaleStats:
    """One scale's values, from its bytes in pieces of whole elements."""
    import numpy as np

    width, lowest, alive, highest = _CODES[meta.dtype]
    step = max(1, -(-meta.num_elements // NUM_SAMPLES))
    stats, offset = ScaleStats(meta), 0
    sample: list[NDArray[Any]] = []
    for data in chunks:
        codes = np.frombuffer(data, dtype=width)
        low, high = codes.min(), codes.max()
        if lowest <= low and high <= highest:
            least, most = decode(meta.dtype, np.array([low, high], dtype=width).tobytes()).tolist()
            stats = _widened(stats, least, most)
        else:
            stats = _add(stats, decode(meta.dtype, data), offset)
        if low < alive:
            stats = _add_dead(stats, (codes >= lowest) & (codes < alive), offset)
        if must_be_powers:
            stats = _add_powers(stats, decode(meta.dtype, data), offset)
        sample.append(codes[-offset % step :: step])
        offset += codes.size
    return stats._replace(median_log2=_median_log2(meta.dtype, sample))


def measured_together(
    metas: Sequence[TensorMeta], data: bytes, *, must_be_powers: Collection[str] = ()
) -> list[ScaleStats]:
    """The same of many small scales, whose bytes follow each other in `data`; `must_be_powers` has names.

    Scales of one dtype and size are rows of one array. Rows that are plainly sound are done with what is known of all
    rows; each other row is measured by itself.
    """
    alike: defaultdict[tuple[DType, int], list[int]] = defaultdict(list)
    for at, meta in enumerate(metas):
        alike[meta.dtype, meta.end - meta.begin].append(at)
    if len(alike) == 1:
        return _measured_alike(metas, data, must_be_powers)
    ends = list(accumulate(meta.nbytes for meta in metas))
    found: dict[int, ScaleStats] = {}
    for (_, nbytes), places in alike.items():
        joined = b"".join([data[ends[at] - nbytes : ends[at]] for at in places])
        found.update(zip(places, _measured_alike([metas[at] for at in places], joined, must_be_powers), strict=True))
    return [found[at] for at in range(len(metas))]


_NOTHING_ODD = tuple(repeat(ScaleStats._field_defaults[name]) for name in ScaleStats._fields[4:])
"""What a plainly sound scale has after its range and its median: nothing counted, nowhere first."""


def _measured_alike(metas: Sequence[TensorMeta], data: bytes, must_be_powers: Collection[str]) -> list[ScaleStats]:
    """Of scales of one dtype and size. Plainly sound ones cost next to no Python: there are tens of thousands."""
    import numpy as np

    powers = np.array([meta.name in must_be_powers for meta in metas]) if must_be_powers else None
    is_plain, least, most, median = _rows(metas[0].dtype, data, len(metas), powers)
    medians = map(log2, np.where(is_plain, median, 1).tolist())
    found = list(map(ScaleStats._make, zip(metas, least.tolist(), most.tolist(), medians, *_NOTHING_ODD, strict=False)))
    nbytes = metas[0].nbytes
    for at in np.flatnonzero(~is_plain).tolist():
        alone = data[at * nbytes : (at + 1) * nbytes]
        found[at] = measured(metas[at], [alone], must_be_powers=powers is not None and bool(powers[at]))
    return found


def _rows(
    dtype: DType, data: bytes, num_rows: int, powers: NDArray[bool_] | None
) -> tuple[NDArray[bool_], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Of scales of one size that follow each other: whether each is plainly sound, its range and its median.

    Plainly sound: finite, positive, nothing dead; where it must be of powers of two, these are normal and below 1.
    """
    import numpy as np

    width, _, alive, highest = _CODES[dtype]
    codes = np.frombuffer(data, dtype=width).reshape(num_rows, -1)
    low, high = codes.min(axis=1), codes.max(axis=1)
    sample = codes[:, :: max(1, -(-codes.shape[1] // NUM_SAMPLES))]
    least, most, median = (decode(dtype, found.tobytes()) for found in (low, high, upper_medians(sample)))
    is_plain = (low >= alive) & (high <= highest)
    if powers is not None and powers.any():
        mantissa = (1 << _MANTISSA_BITS[dtype]) - 1
        are_even = (np.bitwise_or.reduce(codes, axis=1) & mantissa) == 0
        is_plain &= ~powers | (are_even & (most < 1))
    return is_plain, least, most, median


def _median_log2(dtype: DType, sample: list[NDArray[Any]]) -> float:
    """Of positive finite codes; their order is that of the values."""
    import numpy as np

    width, lowest, _, highest = _CODES[dtype]
    if not sample:
        return float("nan")
    codes = sample[0] if len(sample) == 1 else np.concatenate(sample)
    codes = codes[(codes >= lowest) & (codes <= highest)]
    if not codes.size:
        return float("nan")
    middle = codes if codes.size == 1 else np.partition(codes, codes.size // 2)[codes.size // 2 :][:1]
    return log2(decode(dtype, middle.astype(width).tobytes()).item())


def _widened(stats: ScaleStats, least: float, most: float) -> ScaleStats:
    """The range with two more values; what was known may be NaN."""
    return stats._replace(
        smallest=stats.smallest if stats.smallest <= least else least,
        largest=stats.largest if stats.largest >= most else most,
    )


def _add(stats: ScaleStats, values: NDArray[float32] | NDArray[float64], offset: int) -> ScaleStats:
    """Count what is wrong in a chunk that begins at `offset`."""
    import numpy as np

    finite = np.isfinite(values)
    not_finite, not_positive = ~finite, values <= 0
    num_nan = int(np.isnan(values).sum())
    if finite.any():
        stats = _widened(stats, float(values[finite].min()), float(values[finite].max()))
    return stats._replace(
        num_nan=stats.num_nan + num_nan,
        num_inf=stats.num_inf + int(not_finite.sum()) - num_nan,
        num_zero=stats.num_zero + int((values == 0).sum()),
        num_negative=stats.num_negative + int((values < 0).sum()),
        first_not_finite=_first(stats.first_not_finite, not_finite.nonzero()[0], offset),
        first_not_positive=_first(stats.first_not_positive, not_positive.nonzero()[0], offset),
    )


def _add_dead(stats: ScaleStats, dead: NDArray[bool_], offset: int) -> ScaleStats:
    """Count positive values of a chunk that are next to nothing."""
    return stats._replace(
        num_dead=stats.num_dead + int(dead.sum()),
        first_dead=stats.first_dead if stats.first_dead >= 0 or not dead.any() else offset + int(dead.argmax()),
    )


def _add_powers(stats: ScaleStats, values: NDArray[float32] | NDArray[float64], offset: int) -> ScaleStats:
    """Count values of a chunk that are no powers of two, and whole numbers; zeros, NaN and below belong elsewhere."""
    import numpy as np

    with np.errstate(invalid="ignore"):  # of a NaN
        mantissa, _ = np.frexp(values)
        uneven = (mantissa != 0.5) & (values > 0) & np.isfinite(values)
        whole = (values == np.rint(values)) & (values >= 1) & (values <= LARGEST_EXPONENT_BYTE)
    return stats._replace(
        num_uneven=stats.num_uneven + int(uneven.sum()),
        num_whole=stats.num_whole + int(whole.sum()),
        first_uneven=_first(stats.first_uneven, uneven.nonzero()[0], offset),
    )


def _first(known: int, positions: NDArray[intp], offset: int) -> int:
    return known if known >= 0 or not positions.size else offset + int(positions[0])
