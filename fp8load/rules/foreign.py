"""Weights whose scales are not their own: what does not fit, and which weight it would fit.

Two measures, both against the checkpoint's own habits, so that a way of quantizing which shows neither is no alarm: the
correlation of `fp8load.rules.pieces`, where the other weights of the same scheme have a clear one and this has none;
and the size, see `fp8load.rules.sizes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from math import atanh, isnan, sqrt
from typing import TYPE_CHECKING, NamedTuple

from fp8load.formats.lowered import ModuleInfo
from fp8load.rules.families import middle
from fp8load.rules.pieces import correlated, finite
from fp8load.rules.sizes import Sizes
from fp8load.rules.weights import WeightReader, WeightStats
from fp8load.scheme import Role

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

SIGMAS = 6.0
"""Standard errors between a correlation and the usual one: beyond doubt, even in some 10,000 weights."""

CLEAR = -0.3
"""A usual correlation that is weaker shows nothing."""

NONE = 3.5
"""Standard errors from zero within which there is no correlation."""

MOST = 256
"""Weights out of place among which partners are looked for; more are a habit that nobody meant."""


class Foreign(NamedTuple):
    """A weight whose scales are not its own, and the one whose scales would fit; how it was seen."""

    stats: WeightStats
    partner: WeightStats | None
    why: str


def foreign(reader: WeightReader) -> list[Foreign]:
    """Every one, once, in the order of the weights."""
    stats = [one for one in reader.stats if _scheme(one) is not None]
    found = {one.stats.meta.name: one for one in _by_pieces(reader, stats)}
    # What is explained has no size of its own: beside it, its siblings would look wrong.
    others = [one for one in stats if one.meta.name not in found]
    found |= {one.stats.meta.name: one for one in _by_size(reader, others)}
    return [found[one.meta.name] for one in stats if one.meta.name in found]


def _scheme(stats: WeightStats) -> object:
    """What must be equal for correlations to be comparable; None without a scheme."""
    scheme = None if stats.module is None else stats.module.scheme
    return None if scheme is None else (scheme.weight, scheme.second_level)


def _by_pieces(reader: WeightReader, stats: Iterable[WeightStats]) -> Iterator[Foreign]:
    """Weights without the correlation that the others of their scheme have."""
    schemes: dict[object, list[WeightStats]] = {}
    for one in stats:
        if not isnan(one.fit.correlation) and one.fit.num > 3:
            schemes.setdefault(_scheme(one), []).append(one)
    for members in schemes.values():
        usual = middle(one.fit.correlation for one in members)
        suspects = [one for one in members if usual <= CLEAR and _is_loose(one.fit.correlation, one.fit.num, usual)]
        if len(suspects) > min(MOST, len(members) / 2):
            continue
        partners = _partners(reader, suspects, usual)
        for one in suspects:
            why = f"{one.fit.correlation:+.2f} over {one.fit.num:,} pieces, {usual:+.2f} in others"
            yield Foreign(one, partners.get(one.meta.name), why)


def _is_loose(correlation: float, num: int, usual: float) -> bool:
    """Whether a correlation over `num` pieces is none, and cannot be the usual one."""
    width = 1 / sqrt(num - 3)
    apart = (_z(correlation) - _z(usual)) / width
    return apart > SIGMAS and _z(correlation) > -NONE * width


def _z(correlation: float) -> float:
    """Fisher's transformation, whose standard error depends on the number of pieces alone."""
    return atanh(max(-0.9999, min(0.9999, correlation)))


def _partners(reader: WeightReader, suspects: Sequence[WeightStats], usual: float) -> dict[str, WeightStats]:
    """Of two whose scales have one shape: those that have the usual correlation with each other's."""
    pieces = {one.meta.name: reader.compared(one) for one in suspects} if len(suspects) > 1 else {}
    found: dict[str, WeightStats] = {}
    for one, two in combinations(suspects, 2):
        first, second = pieces[one.meta.name], pieces[two.meta.name]
        if _scale_shape(one) != _scale_shape(two) or len(first[0]) != len(second[0]):
            continue
        scales, sizes, others, their_sizes = finite(*first, *second)
        if max(correlated(others, sizes), correlated(scales, their_sizes)) <= usual / 2:
            found[one.meta.name], found[two.meta.name] = two, one
    return found


def _scale_shape(stats: WeightStats) -> tuple[int, ...] | None:
    info: ModuleInfo | None = stats.module
    scale = None if info is None else info.tensors.get(Role.WEIGHT_SCALE)
    return None if scale is None else scale.shape


def _by_size(reader: WeightReader, stats: Sequence[WeightStats]) -> Iterator[Foreign]:
    """Pairs that are out of place, and in place with each other's scales; then those that are far out of place alone.

    A weight belongs to one pair, the closest.
    """
    by_name = {one.meta.name: one for one in stats}
    sizes = Sizes(stats)
    out = [by_name[name] for name in sizes.size if sizes.is_out(name)]
    for _, first, second in sorted(_exchanges(reader, sizes, out)) if len(out) <= MOST else ():
        if not (sizes.is_out(first) and sizes.is_out(second)):
            continue  # it was the pair before that made them so
        yield Foreign(by_name[first], by_name[second], _times(sizes, first))
        yield Foreign(by_name[second], by_name[first], _times(sizes, second))
        sizes = Sizes(by_name[name] for name in sizes.size if name not in (first, second))
    for name in filter(sizes.is_far_out, sizes.size):
        yield Foreign(by_name[name], None, _times(sizes, name))


def _times(sizes: Sizes, name: str) -> str:
    away = sizes.away(name)
    others = "its one sibling in another layer" if sizes.is_pair(name) else "the same projection in other layers"
    return f"{2 ** abs(away):.3g} times {'larger' if away > 0 else 'smaller'} than {others}"


def _exchanges(reader: WeightReader, sizes: Sizes, out: Sequence[WeightStats]) -> Iterator[tuple[float, str, str]]:
    """How far from their places two weights are with each other's scales, where both are in place then."""
    pieces = {one.meta.name: reader.compared(one) for one in out} if len(out) > 1 else {}
    for one, two in combinations(out, 2):
        first, second = one.meta.name, two.meta.name
        if _scale_shape(one) != _scale_shape(two):
            continue
        if len(pieces[first][0]) == len(pieces[second][0]):
            scales, codes, others, their_codes = finite(*pieces[first], *pieces[second])
            if not scales.size:
                continue
            now = {
                first: sizes.size[first] + _size(others + codes) - _size(scales + codes),
                second: sizes.size[second] + _size(scales + their_codes) - _size(others + their_codes),
            }
        else:  # one number for matrices of two sizes
            step = two.fit.level - one.fit.level
            now = {first: sizes.size[first] + step, second: sizes.size[second] - step}
        if all(sizes.is_in(name, now) for name in now):
            yield max(abs(sizes.away(name, now)) for name in now), first, second


def _size(logs: NDArray[float64]) -> float:
    """log2 of the root mean square of pieces, of the log2 of each one's."""
    import numpy as np

    return float(np.log2(np.mean(np.exp2(2 * logs))) / 2)
