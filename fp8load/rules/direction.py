"""Which weight scales are the reciprocal of what they should be, judged by their size alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fp8load.dtypes import LARGEST_FINITE
from fp8load.formats.lowered import ModuleInfo
from fp8load.rules.families import Member, middle, scale_families
from fp8load.rules.scale_stats import ScaleStats
from fp8load.scheme import Role

if TYPE_CHECKING:
    from fp8load.rules.base import Context

LARGEST = 10.0
"""log2 of the largest scale of a weight: with codes of 448 it means weights of 458,752."""

NONSENSE = 40.0
"""log2 of what is no scale in either direction: memory that was never written."""

NEAR = 2.0
"""log2 of how far a reciprocal may be from other layers' scales, to be one of them."""

FAR = 8.0
"""log2 of how far the scale itself then has to be from them."""


def reciprocals(context: Context) -> Iterator[tuple[ModuleInfo, Role, ScaleStats]]:
    """Each sound weight scale that points the wrong way, with the module that uses it."""
    modules = context.checkpoint.lowered.modules
    for family in scale_families(context, (Role.WEIGHT_GLOBAL_SCALE,)):
        for member in _turned_globals(family, modules[family[0].module]):
            yield modules[member.module], member.role, member.stats
    families = [
        family
        for family in scale_families(context, (Role.WEIGHT_SCALE,))
        if _multiplies_alone(modules[family[0].module])
    ]
    are_turned = _are_turned([member for family in families for member in family])
    for family in families:
        usual = middle(member.stats.median_log2 for member in family)
        for member in family:
            found = member.stats.median_log2
            if _is_turned(found, usual, len(family)) or (are_turned and 0 < found < NONSENSE):
                yield modules[member.module], member.role, member.stats


def _turned_globals(family: Sequence[Member], first: ModuleInfo) -> list[Member]:
    """The largest weight is the largest code times the largest E4M3 block scale times this, or over this."""
    scheme = first.scheme
    if scheme is None:
        return []
    divides = scheme.second_level is not None and scheme.second_level.divides
    return [m for m in family if (m.stats.largest < 1 if divides else m.stats.smallest > 1)]


def _multiplies_alone(info: ModuleInfo) -> bool:
    """Whether the size of a scale says how large the weights are; block scales under a global scale have any size."""
    scheme = info.scheme
    return scheme is not None and scheme.second_level is None and scheme.weight.dtype in LARGEST_FINITE


def _are_turned(members: Sequence[Member]) -> bool:
    """Whether all of a checkpoint is the wrong way round: most scales are above 1, and some beyond doubt. A tool
    inverts every scale or none, and those of large weights are not beyond doubt by themselves: 448 / 2 is 224."""
    sizes = [member.stats.median_log2 for member in members]
    return any(LARGEST < size < NONSENSE for size in sizes) and middle(sizes) > 0


def _is_turned(found: float, usual: float, num_members: int) -> bool:
    if found > LARGEST:
        return found < NONSENSE
    return num_members > 2 and found > 0 > usual and found - usual > FAR and abs(found + usual) < NEAR
