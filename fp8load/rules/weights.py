"""Values of weights: one pass over their bytes in file order, shared by all rules, in bounded memory.

Every byte is looked at for what is wrong (codes that are no number, zeros, the largest code). How large the dequantized
weight is, is taken of rows that are evenly spread: a factor of thirty shows in a few of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from math import nan
from typing import TYPE_CHECKING, NamedTuple

from fp8load.dtypes import DType, decode_table
from fp8load.formats.lowered import ModuleInfo
from fp8load.formats.stacked import stored_name
from fp8load.index.index import TensorMeta
from fp8load.rules.pieces import Fit, Pieces
from fp8load.scheme import Role
from fp8load.values.dequantize import Dequantizer, decoded, dequantizer_of
from fp8load.values.read import bands, grid_of, pieces
from fp8load.values.threads import all_in_threads

if TYPE_CHECKING:
    from numpy import bool_, float64, uint8
    from numpy.typing import NDArray

    from fp8load.checkpoint import Checkpoint

CHUNK = 4 << 20
"""Bytes of a weight that are read at once, by each thread."""

NUM_SAMPLES = 1 << 17
"""Elements of a weight that are dequantized, in whole rows."""

_MAGNITUDE: dict[int, int] = {4: 0x77, 8: 0x7F}
"""Bits of an element -> its byte without the signs: zero is then a zero byte, whichever its sign."""

_LARGEST: dict[DType, int] = {
    DType.F8_E4M3: 0x7E, DType.F8_E5M2: 0x7B, DType.F8_E4M3FNUZ: 0x7F, DType.F8_E5M2FNUZ: 0x7F,
}  # fmt: skip
"""The largest finite code without its sign; codes grow with their values."""

_FNUZ_NAN = 0x80


class WeightStats(NamedTuple):
    """What rules need to know of one weight.

    module        its module; None for FP8 tensors that are no module's weight
    num_bad       codes that are no finite number, and the first one's place in the stored tensor (-1: none)
    largest       largest magnitude of a finite FP8 code, NaN for other dtypes
    is_zero       whether every element is zero
    rms           root mean square of the dequantized weight, NaN where it cannot be dequantized
    fit           how its scales and codes go together
    """

    meta: TensorMeta
    module: ModuleInfo | None
    num_bad: int = 0
    first_bad: int = -1
    largest: float = nan
    is_zero: bool = False
    rms: float = nan
    fit: Fit = Fit()


class WeightReader:
    """Reads every weight of a checkpoint once, and keeps a `WeightStats` of each."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    @cached_property
    def stats(self) -> tuple[WeightStats, ...]:
        """One entry for each weight, in the order of their bytes. The first use reads; a `SourceError` passes through.

        Weights of all modules are read, quantized or not, and every other FP8 tensor that is no scale.
        """
        items = sorted(self._items(), key=lambda item: (item[0].file, item[0].begin))
        return tuple(all_in_threads(self._checkpoint, self._measure, items))

    def _items(self) -> Iterator[tuple[TensorMeta, ModuleInfo | None]]:
        lowered = self._checkpoint.lowered
        for info in lowered.modules.values():
            yield info.tensors[Role.WEIGHT], info
        yield from ((meta, None) for meta in lowered.loose.values() if meta.dtype.is_fp8)

    def _measure(self, item: tuple[TensorMeta, ModuleInfo | None]) -> WeightStats:
        meta, info = item
        scan = _Scan(meta)
        made = None if info is None else dequantizer_of(self._checkpoint, info, transforms=False)
        columns_first = info is not None and Role.WEIGHT in info.transposed
        num_rows, row_nbytes = grid_of(meta)
        if made is None or (row_nbytes > CHUNK and not columns_first):
            for data in pieces(self._checkpoint, meta, CHUNK):
                scan.add(_flat(data))
        else:
            num_cols = row_nbytes * 8 // meta.dtype.bits
            size = _Size(meta.dtype, made, max(1, num_rows * num_cols // NUM_SAMPLES))
            compared = None if made.scale is None else Pieces(meta.dtype, made, (num_rows, num_cols))
            for begin, raw in bands(self._checkpoint, meta, columns_first=columns_first, nbytes=CHUNK):
                scan.add(raw.reshape(-1))
                size.add(begin, raw)
                if compared is not None:
                    compared.add(begin, raw)
            scan.rms = size.rms
            scan.fit = Fit() if compared is None else compared.fit()
        return scan.stats(info, self._offset(meta))

    def compared(self, stats: WeightStats) -> tuple[NDArray[float64], NDArray[float64]]:
        """log2 of a weight's scales and of their codes' sizes, piece by piece; read once more."""
        import numpy as np

        made = None if stats.module is None else dequantizer_of(self._checkpoint, stats.module, transforms=False)
        if stats.module is None or made is None or made.scale is None:
            return np.zeros(0), np.zeros(0)
        num_rows, row_nbytes = grid_of(stats.meta)
        pieces = Pieces(stats.meta.dtype, made, (num_rows, row_nbytes * 8 // stats.meta.dtype.bits))
        columns_first = Role.WEIGHT in stats.module.transposed
        for begin, raw in bands(self._checkpoint, stats.meta, columns_first=columns_first, nbytes=CHUNK):
            pieces.add(begin, raw)
        return pieces.compared()

    def _offset(self, meta: TensorMeta) -> int:
        """Bytes of the stored tensor before this one: a piece's place in the whole."""
        whole = self._checkpoint.index.tensors.get(stored_name(meta.name, self._checkpoint.lowered.pieces))
        return 0 if whole is None else meta.begin - whole.begin

    @cached_property
    def by_module(self) -> Mapping[str, WeightStats]:
        """The same by module."""
        return {stats.module.name: stats for stats in self.stats if stats.module is not None}


class _Scan:
    """Counts over the bytes of one tensor, chunk by chunk."""

    def __init__(self, meta: TensorMeta) -> None:
        self._meta = meta
        is_float = meta.dtype.is_fp8 or meta.dtype is DType.F4  # other codes with one bit set are numbers, not zeros
        self._mask = _MAGNITUDE[meta.dtype.bits] if is_float else 0xFF
        self._offset = self._num_bad = self._largest = 0
        self._first_bad = -1
        self.rms = nan
        self.fit = Fit()

    def add(self, raw: NDArray[uint8]) -> None:
        """The next bytes."""
        dtype = self._meta.dtype
        if not dtype.is_fp8:
            # Zero until something is not; after that there is nothing to learn.
            self._largest = self._largest or int((raw & self._mask).any() if self._mask != 0xFF else raw.any())
        else:
            largest = int((raw & self._mask).max())
            is_fnuz = _LARGEST[dtype] == 0x7F
            if largest > _LARGEST[dtype] or (is_fnuz and bool((raw == _FNUZ_NAN).any())):
                largest = self._add_bad(raw)
            self._largest = max(self._largest, largest)
        self._offset += raw.size

    def _add_bad(self, raw: NDArray[uint8]) -> int:
        """Count codes that are not finite; the largest magnitude of those that are."""
        bad = _not_finite(self._meta.dtype)[raw]
        num_bad = int(bad.sum())
        if num_bad and self._first_bad < 0:
            self._first_bad = self._offset + int(bad.argmax())
        self._num_bad += num_bad
        good = raw[~bad] & self._mask
        return int(good.max()) if good.size else 0

    def stats(self, info: ModuleInfo | None, offset: int) -> WeightStats:
        """What was found; `offset` is added to the place of the first bad code."""
        meta = self._meta
        return WeightStats(
            meta=meta, module=info, num_bad=self._num_bad,
            first_bad=self._first_bad + offset if self._first_bad >= 0 else -1,
            largest=float(decode_table(meta.dtype)[self._largest]) if meta.dtype.is_fp8 else nan,
            is_zero=meta.nbytes > 0 and self._largest == 0 and self._num_bad == 0, rms=self.rms,
            fit=self.fit,
        )  # fmt: skip


class _Size:
    """Root mean square of a dequantized weight, of every `step`th row."""

    def __init__(self, dtype: DType, made: Dequantizer, step: int) -> None:
        self._dtype, self._made, self._step = dtype, made, step
        self._sum, self._count = 0.0, 0

    def add(self, begin: int, raw: NDArray[uint8]) -> None:
        """A band of rows."""
        import numpy as np

        chosen = np.arange(-begin % self._step, len(raw), self._step)
        if not chosen.size:
            return
        with np.errstate(all="ignore"):  # scales may be anything here
            values = self._made.real(decoded(self._dtype, raw[chosen]), chosen + begin)
            self._sum += float(np.square(values, dtype=np.float64).sum())
        self._count += values.size

    @property
    def rms(self) -> float:
        """NaN without an element, or where one is NaN."""
        return float((self._sum / self._count) ** 0.5) if self._count else nan


def _flat(data: bytes) -> NDArray[uint8]:
    import numpy as np

    return np.frombuffer(data, np.uint8)


def _not_finite(dtype: DType) -> NDArray[bool_]:
    import numpy as np

    found: NDArray[bool_] = ~np.isfinite(decode_table(dtype))
    return found
