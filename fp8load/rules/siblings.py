"""Numbers that modules share in engines and not on disk: the scalar scales of modules that become one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from fp8load.formats.lowered import ModuleInfo
from fp8load.scheme import Role

if TYPE_CHECKING:
    from fp8load.index.index import TensorMeta
    from fp8load.rules.base import Context

NEAR = 1 + 1e-6
"""Scales this far apart are one number: tools round the same float32 in two ways."""


class Differing(NamedTuple):
    """The scale that is furthest from the largest, and all of them in words."""

    meta: TensorMeta
    text: str


def differing(context: Context, members: Sequence[ModuleInfo], role: Role) -> Differing | None:
    """Whether members' scalars under `role` differ; None where they agree, or one of them is unsound or no scalar."""
    if context.scales is None:
        return None
    found: dict[str, tuple[float, TensorMeta]] = {}
    for info in members:
        meta = info.tensors.get(role)
        stats = None if meta is None else context.scales.by_name.get(meta.name)
        if stats is None or stats.constant is None or stats.meta.num_elements != 1:
            return None
        found[info.name] = stats.constant, stats.meta
    least, largest = min(found.values(), key=_number), max(found.values(), key=_number)
    if largest[0] <= least[0] * NEAR:
        return None
    lasts = [name.rpartition(".")[2] for name in found]
    if len(set(lasts)) == len(lasts):
        numbers = ", ".join(f"{last} {number:.4g}" for last, (number, _) in zip(lasts, found.values(), strict=True))
    else:
        numbers = f"{len(found):,} from {least[0]:.4g} to {largest[0]:.4g}"
    return Differing(least[1], f"{numbers} ({largest[0] / least[0]:.4g} times apart)")


def _number(found: tuple[float, TensorMeta]) -> float:
    return found[0]
