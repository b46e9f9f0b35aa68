"""How large dequantized weights are beside the same projection in other layers, in the checkpoint's own measure.

The size is log2 of the root mean square. How far the members of a family usually are from its middle is what a
deviation is measured in; so a model whose layers differ much is no alarm, and neither is one in which some layers are
of another kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from math import inf, isfinite, isnan, log2, nan

from fp8load.rules.families import family_of, middle
from fp8load.rules.weights import WeightStats

DEAD = 1e-12
"""Weights of experts that training never reached: their sizes are nobody's."""

IN, OUT, FAR = 2.5, 6.0, 10.0
"""Usual distances from the middle: in place, out of place, and too far for any layer."""

LEAST_SPREAD = 0.02
"""1.4 %: layers are never known to be closer than that."""

LEAST_FAR, LEAST_FAR_AT_ENDS = 0.75, 2.0
"""1.7 times; four times in the first two and the last two layers, which are often unlike the others."""

MANY = 8
"""Members of a family whose middle one of them does not move; and layers of which the ends are ends."""

MOST_LONE = 2
"""Members of a family that are out of place; more are layers of another kind."""


class Sizes:
    """Sizes by the weight's name, and families of names."""

    def __init__(self, stats: Iterable[WeightStats]) -> None:
        self.size: dict[str, float] = {}
        self._module: dict[str, str] = {}
        self._members: dict[str, list[str]] = {}
        for one in stats:
            if one.module is not None and DEAD < one.rms < inf and isfinite(one.fit.level):
                self.size[one.meta.name] = log2(one.rms)
                self._module[one.meta.name] = one.module.name
                self._members.setdefault(family_of(one.module.name), []).append(one.meta.name)
        self.family = {name: family for family, names in self._members.items() for name in names}

    @cached_property
    def _middle(self) -> dict[str, float]:
        return {family: middle(map(self.size.__getitem__, names))
                for family, names in self._members.items() if len(names) >= MANY}  # fmt: skip

    def away(self, name: str, now: Mapping[str, float] | None = None) -> float:
        """From the middle of the others of its family; `now`: sizes that some would have. NaN without others.

        One or two of many do not move the middle, which is then that of all.
        """
        changed = now or {}
        size, family = changed.get(name, self.size[name]), self.family[name]
        if family in self._middle:
            return size - self._middle[family]
        rest = [changed.get(other, self.size[other]) for other in self._members[family] if other != name]
        return size - middle(rest) if rest else nan

    @cached_property
    def _spread(self) -> dict[str, float]:
        """The usual distance in each family; of small ones, that in all small ones."""
        distances = {name: abs(self.away(name)) for name in self.size}
        few = [distances[name] for names in self._members.values() if 1 < len(names) < 4 for name in names]
        return {family: _spread([distances[name] for name in names], 2) if len(names) > 3 else _spread(few, 4)
                for family, names in self._members.items()}  # fmt: skip

    def is_in(self, name: str, now: Mapping[str, float]) -> bool:
        """Whether a weight is where its family is, with the sizes that some would have."""
        return abs(self.away(name, now)) <= IN * self._spread[self.family[name]]

    def is_out(self, name: str) -> bool:
        """Whether it is elsewhere; far away, at the ends. Not what is not known."""
        if name not in self.size:
            return False
        least = LEAST_FAR_AT_ENDS if name in self._at_an_end else 0
        return abs(self.away(name)) > max(OUT * self._spread[self.family[name]], least)

    def is_far_out(self, name: str) -> bool:
        """Whether it is so far away, and so alone there, that no trained layer would be."""
        family = self.family[name]
        if not (self.is_out(name) and abs(self.away(name)) > max(FAR * self._spread[family], LEAST_FAR)):
            return False
        return sum(map(self.is_out, self._members[family])) <= MOST_LONE and not self._is_with_its_layer(name)

    @cached_property
    def _layers(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for name, module in self._module.items():
            found.setdefault(_layer(module), []).append(name)
        return found

    def _is_with_its_layer(self, name: str) -> bool:
        """Whether half of its layer is out of place in the same direction: then the layer is another, not a scale."""
        mates = [other for other in self._layers[_layer(self._module[name])] if other != name]
        alike = [other for other in mates if self.is_out(other) and self.away(other) * self.away(name) > 0]
        return 0 < len(mates) <= 2 * len(alike)

    def is_pair(self, name: str) -> bool:
        """Whether its family has two members, of which either may be the one that is wrong."""
        return len(self._members[self.family[name]]) == 2

    @cached_property
    def _at_an_end(self) -> frozenset[str]:
        """Weights of the first two and the last two layers, of families that have many."""
        found: set[str] = set()
        for names in self._members.values():
            layers = sorted({_layer(self._module[name]) for name in names})
            ends = {*layers[:2], *layers[-2:]} if len(layers) >= MANY else set()
            found.update(name for name in names if _layer(self._module[name]) in ends)
        return frozenset(found)


def _layer(module: str) -> int:
    """The first number in a module's name."""
    return next((int(part) for part in module.split(".") if part.isdecimal()), 0)


def _spread(distances: Sequence[float], part: int) -> float:
    """A standard deviation from distances by the one that 1 of `part` is below; infinite where too few are known.

    Where few are known, some of which may be wrong, the lowest quarter tells more than the lower half.
    """
    known = sorted(distance for distance in distances if not isnan(distance))
    if len(known) < 4:
        return inf
    return max(known[len(known) // part] / {2: 0.6745, 4: 0.3186}[part], LEAST_SPREAD)
