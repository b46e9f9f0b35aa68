"""Where the values of scales lie: histograms by role, medians by layer and kind of module, and single odd blocks.

Reads every scale once, in pieces. Logarithms are to base 2. For people: rules decide, this shows.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from fp8load.dtypes import decode
from fp8load.index.index import TensorMeta
from fp8load.patterns import natural_key
from fp8load.rules.scales import ScaleReader, chunks

if TYPE_CHECKING:
    from numpy import float32, float64
    from numpy.typing import NDArray

    from fp8load.checkpoint import Checkpoint

FAR = 10.0
"""Octaves from the median of its kind at which a value is listed: a factor of 1024."""

MAX_OUTLIERS = 50
"""Outliers that are kept, the farthest first."""

_FINE = 64
"""Bins of an octave, for the median of a tensor that is read in several pieces."""

_NUMBER = re.compile(r"\.(\d+)(?=\.)")


class ScaleView(NamedTuple):
    """One scale tensor. `low`, `median`, `high` are logarithms of its positive finite values, None where it has none.

    `num_odd` counts values that are none (zero, below, NaN, infinite); `at_low` and `at_high` are flat positions.
    """

    meta: TensorMeta
    role: str
    layer: int | None
    kind: str
    num_odd: int
    low: float | None
    median: float | None
    high: float | None
    at_low: int
    at_high: int


class Outlier(NamedTuple):
    """A value far from the median of its kind: its tensor, its index along each axis, and both as logarithms."""

    name: str
    position: tuple[int, ...]
    log2: float
    usual: float


@dataclass(frozen=True, slots=True)
class Survey:
    """All scales of a checkpoint.

    scales      each scale tensor, in natural order of the names
    histograms  role -> floor of the logarithm -> how many values
    odd         role -> how many values have no logarithm
    """

    scales: list[ScaleView] = field(default_factory=list)
    histograms: dict[str, Counter[int]] = field(default_factory=dict)
    odd: Counter[str] = field(default_factory=Counter)

    def kinds(self, role: str) -> list[str]:
        """Kinds of modules that have scales of this role, in the order of a layer."""
        return list(dict.fromkeys(view.kind for view in self.scales if view.role == role))

    def roles(self) -> list[str]:
        """Roles that have scales."""
        return list(dict.fromkeys(view.role for view in self.scales))

    def medians(self, role: str) -> dict[tuple[int, str], float]:
        """(layer, kind) -> the median over its tensors of their medians; experts are one kind."""
        table: dict[tuple[int, str], list[float]] = {}
        for view in self.scales:
            if view.role == role and view.layer is not None and view.median is not None:
                table.setdefault((view.layer, view.kind), []).append(view.median)
        return {key: median(values) for key, values in table.items()}

    def outliers(self) -> list[Outlier]:
        """Extremes of tensors that lie `FAR` from the median of their role and kind, the farthest first."""
        families: dict[tuple[str, str], list[ScaleView]] = {}
        for view in self.scales:
            if view.median is not None:
                families.setdefault((view.role, view.kind), []).append(view)
        found: list[Outlier] = []
        for members in families.values():
            usual = median(view.median for view in members if view.median is not None)
            for view in members:
                for value, flat in {(view.low, view.at_low), (view.high, view.at_high)}:
                    if value is not None and abs(value - usual) >= FAR:
                        found.append(Outlier(view.meta.name, _position(flat, view.meta.shape), value, usual))
        found.sort(key=lambda outlier: (-abs(outlier.log2 - outlier.usual), natural_key(outlier.name)))
        return found[:MAX_OUTLIERS]


def survey_of(checkpoint: Checkpoint) -> Survey:
    """Read every scale of a checkpoint. Raises `SourceError` where that cannot be done."""
    roles = _roles(checkpoint)
    survey = Survey()
    for meta in ScaleReader(checkpoint).metas():
        role = roles.get(meta.name, "unused scale")
        counts = survey.histograms.setdefault(role, Counter())
        survey.scales.append(_view(checkpoint, meta, role, counts))
        survey.odd[role] += survey.scales[-1].num_odd
    survey.scales.sort(key=lambda view: natural_key(view.meta.name))
    return survey


def _roles(checkpoint: Checkpoint) -> dict[str, str]:
    modules = checkpoint.lowered.modules.values()
    roles = {meta.name: role.value for info in modules for role, meta in info.tensors.items()}
    return roles | {meta.name: role.value for (_, role), meta in checkpoint.lowered.kv.items()}


def kind_of(name: str) -> tuple[int | None, str]:
    """Layer and kind of a scale's name: (3, "mlp.experts.down_proj") of "model.layers.3.mlp.experts.7.down_proj.x"."""
    module = name.rpartition("[")[0] or name
    numbers = list(_NUMBER.finditer(module))
    if not numbers:
        return None, module.rpartition(".")[0] or module
    rest = _NUMBER.sub("", module[numbers[0].end() :]).strip(".")
    return int(numbers[0][1]), rest.rpartition(".")[0] or rest


def _view(checkpoint: Checkpoint, meta: TensorMeta, role: str, counts: Counter[int]) -> ScaleView:
    """One pass over a tensor; its values are added to `counts`."""
    import numpy as np

    num_odd, offset, fine = 0, 0, Counter[int]()
    low, high, at_low, at_high, middle = np.inf, -np.inf, -1, -1, None
    for data in chunks(checkpoint, meta):
        values = decode(meta.dtype, data)
        places = np.flatnonzero((values > 0) & np.isfinite(values))
        num_odd += values.size - places.size
        logs = np.log2(values[places].astype(np.float64))
        if logs.size:
            first, last = int(logs.argmin()), int(logs.argmax())
            if logs[first] < low:
                low, at_low = float(logs[first]), offset + int(places[first])
            if logs[last] > high:
                high, at_high = float(logs[last]), offset + int(places[last])
            _count(counts, logs, 1)
            if values.size == meta.num_elements:
                middle = float(np.median(logs))
            else:
                _count(fine, logs, _FINE)
        offset += values.size
    layer, kind = kind_of(meta.name)
    if at_low < 0:
        return ScaleView(meta, role, layer, kind, num_odd, None, None, None, -1, -1)
    return ScaleView(meta, role, layer, kind, num_odd, low, _middle(fine) if middle is None else middle, high,
                     at_low, at_high)  # fmt: skip


def _count(counts: Counter[int], logs: NDArray[float32] | NDArray[float64], bins: int) -> None:
    import numpy as np

    numbers, times = np.unique(np.floor(logs * bins).astype(np.int64), return_counts=True)
    for number, count in zip(numbers.tolist(), times.tolist(), strict=True):
        counts[number] += count


def _middle(fine: Counter[int]) -> float:
    """The median of values that were counted in fine bins: the middle of its bin."""
    seen, half = 0, sum(fine.values()) / 2
    for number in sorted(fine):
        seen += fine[number]
        if seen >= half:
            return (number + 0.5) / _FINE
    raise ValueError("nothing was counted")


def _position(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    place: list[int] = []
    for size in reversed(shape):
        place.insert(0, flat % size)
        flat //= size
    return tuple(place)
