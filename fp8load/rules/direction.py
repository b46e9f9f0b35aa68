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
    for role in (Role.WEIGHT_GLOBAL_SCALE, Role.WEIGHT_SCALE):
        for family in scale_families(context, (role,)):
            for member in _turned(family, modules[family[0].module]):
                yield modules[member.module], role, member.stats


def _turned(family: Sequence[Member], first: ModuleInfo) -> list[Member]:
    """Members of a family (which have one scheme) that point the wrong way."""
    scheme = first.scheme
    if scheme is None:
        return []
    if family[0].role is Role.WEIGHT_GLOBAL_SCALE:
        # The largest weight is the largest code times the largest E4M3 block scale times this, or over this.
        divides = scheme.second_level is not None and scheme.second_level.divides
        return [m for m in family if (m.stats.largest < 1 if divides else m.stats.smallest > 1)]
    if scheme.second_level is not None or scheme.weight.dtype not in LARGEST_FINITE:
        return []  # block scales under a global scale have any size
    usual = middle(member.stats.median_log2 for member in family)
    return [member for member in family if _is_turned(member.stats.median_log2, usual, len(family))]


def _is_turned(found: float, usual: float, num_members: int) -> bool:
    if found > LARGEST:
        return found < NONSENSE
    return num_members > 2 and found > 0 > usual and found - usual > FAR and abs(found + usual) < NEAR
