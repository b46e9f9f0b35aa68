"""Values of scales, read one tensor at a time: memory is bounded by the largest scale, not by the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from fp8load.dtypes import decode
from fp8load.errors import NetworkError, Problem
from fp8load.index.index import TensorMeta
from fp8load.inspection import scale_names

if TYPE_CHECKING:
    from numpy import float32, float64
    from numpy.typing import NDArray

    from fp8load.checkpoint import Checkpoint


class ScaleValues(NamedTuple):
    """One scale tensor and its numbers, flat."""

    meta: TensorMeta
    values: NDArray[float32] | NDArray[float64]


class ScaleReader:
    """Reads every scale of a checkpoint once, in file order, and keeps what each rule derives, never the values."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def metas(self) -> list[TensorMeta]:
        """Scales that hold floats, in the order of their bytes."""
        tensors = self._checkpoint.index.tensors
        metas = (tensors[name] for name in scale_names(self._checkpoint))
        wanted = (meta for meta in metas if meta.dtype.is_wide_float or meta.dtype.bits == 8)
        return sorted(wanted, key=lambda meta: (meta.file, meta.begin))

    @property
    def nbytes(self) -> int:
        """Bytes that reading all of them takes."""
        return sum(meta.nbytes for meta in self.metas())

    def __iter__(self) -> Iterator[ScaleValues]:
        for meta in self.metas():
            yield ScaleValues(meta, decode(meta.dtype, self._read(meta)))

    def _read(self, meta: TensorMeta) -> bytes:
        data = self._checkpoint.source.read(meta.file, meta.begin, meta.end)
        if len(data) != meta.nbytes:
            raise NetworkError(Problem(code="SRC006", message="the file is shorter than its header said", tensor=meta.name,
                                       file=meta.file, expected=f"{meta.nbytes} bytes", got=f"{len(data)} bytes"))  # fmt: skip
        return data
