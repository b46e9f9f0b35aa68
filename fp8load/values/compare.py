"""How far the dequantized weights of a checkpoint are from those of its source: without torch, in bounded memory.

SQNR, the signal-to-quantization-noise ratio in dB: 10 log10(sum w^2 / sum (w - v)^2), for the source's weight w and the
dequantized v. Rounding to E4M3 gives about 31 dB, to FP4 with block scales 17 to 21; unrelated weights -3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, isnan, log10, nan
from typing import TYPE_CHECKING

from fp8load.formats.lowered import ModuleInfo
from fp8load.scheme import Role
from fp8load.values.matrix import Matrix, matrix_of
from fp8load.values.pairing import Found, Pairing
from fp8load.values.threads import all_in_threads

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint

BAND = 1 << 20
"""Elements that are compared at once, in each thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """One module's weight and the source's.

    sqnr       dB; inf: identical; NaN: not comparable, or one of them is not finite
    max_error  the largest difference over the source's largest magnitude
    shapes     (here, there) where they differ
    readable   whether both are in a form that can be dequantized
    """

    info: ModuleInfo
    sqnr: float = nan
    max_error: float = nan
    shapes: tuple[tuple[int, int], tuple[int, int]] | None = None
    readable: bool = True

    @property
    def is_known(self) -> bool:
        """Whether there is a number."""
        return not isnan(self.sqnr)

    @property
    def is_identical(self) -> bool:
        """Whether every number is the same."""
        return self.sqnr == inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two checkpoints: distances in the order of modules, and matrices that only one of them has."""

    source: Checkpoint
    distances: tuple[Distance, ...]
    only_here: tuple[str, ...]
    only_there: tuple[str, ...]


def compared(checkpoint: Checkpoint, source: Checkpoint) -> Comparison:
    """Compare every matrix that both have. Reads all of both; a `SourceError` passes through."""
    pairing = Pairing(checkpoint, source)
    pairs: list[tuple[ModuleInfo, Found]] = []
    alone: list[str] = []
    for info in checkpoint.lowered.modules.values():
        if len(info.tensors[Role.WEIGHT].shape) < 2:
            continue
        found = pairing.find(info.name)
        if found is None:
            alone.append(info.name)
        else:
            pairs.append((info, found))
    distances = all_in_threads(checkpoint, lambda pair: _distance(checkpoint, *pair), pairs)
    return Comparison(
        source=source, distances=tuple(distances), only_here=tuple(alone), only_there=tuple(pairing.unused())
    )  # fmt: skip


def _distance(checkpoint: Checkpoint, info: ModuleInfo, found: Found) -> Distance:
    here, there = matrix_of(checkpoint, info.name), found()
    if here is None or there is None:
        return Distance(info=info, readable=False)
    if here.shape != there.shape:
        return Distance(info=info, shapes=(here.shape, there.shape))
    sqnr, max_error = distance_of(here, there)
    return Distance(info=info, sqnr=sqnr, max_error=max_error)


def distance_of(here: Matrix, there: Matrix) -> tuple[float, float]:
    """(SQNR in dB, largest difference over the largest magnitude there) of two matrices of one shape."""
    import numpy as np

    num_rows, num_cols = there.shape
    step = max(1, BAND // max(num_cols, 1))
    signal = noise = largest = worst = 0.0
    with np.errstate(all="ignore"):  # weights may be anything; what is not finite ends as NaN
        for begin in range(0, num_rows, step):
            end = min(begin + step, num_rows)
            w, v = there.rows(begin, end), here.rows(begin, end)
            error = np.subtract(w, v, dtype=np.float64)
            signal += float(np.square(w, dtype=np.float64).sum())
            noise += float(np.square(error).sum())
            largest = _larger(largest, float(np.abs(w).max()))
            worst = _larger(worst, float(np.abs(error).max()))
    return _decibels(signal, noise), worst / largest if largest > 0 else (nan if worst else 0.0)


def _larger(a: float, b: float) -> float:
    """The larger; NaN where either is."""
    return a if a > b or isnan(a) else b


def _decibels(signal: float, noise: float) -> float:
    if isnan(signal) or isnan(noise) or inf in (signal, noise):
        return nan
    if noise == 0:
        return inf
    return 10 * log10(signal / noise) if signal > 0 else -inf


def median(numbers: Iterable[float]) -> float:
    """The upper of two; NaN of nothing."""
    ordered: Sequence[float] = sorted(numbers)
    return ordered[len(ordered) // 2] if ordered else nan
