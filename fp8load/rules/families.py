"""Families of names, and of scales: those that are equal but for the numbers in their names.

The odd ones out of a family are what is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple

from fp8load.rules.scale_stats import ScaleStats
from fp8load.scheme import Role

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint
    from fp8load.rules.base import Context

MAX_SHOWN = 2
"""Families that one text names."""


def family(name: str) -> str:
    """The name with "*" for each component that is a number: "model.layers.*.mlp.down_proj.weight"."""
    return ".".join(["*" if part.isdecimal() else part for part in name.split(".")])


class Families:
    """How many members each family of a checkpoint has; names that are missing belong to families too."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names

    @cached_property
    def _sizes(self) -> Counter[str]:
        return Counter(map(family, self._names))

    def share(self, names: Iterable[str]) -> str:
        """ "2 of 62 model.layers.*.mlp.down_proj.weight": what part of their families the names are.

        Empty where they are whole families, or have no relatives.
        """
        named = dict.fromkeys(names)  # in order, so that equal reports have equal texts
        counts = Counter(map(family, named))
        absent = Counter(family(name) for name in named if name not in self._names)
        parts = []
        for key, count in counts.items():
            size = self._sizes[key] + absent[key]
            if count < size:
                parts.append(f"{count:,} of {size:,} {key}")
        more = f" and {len(parts) - MAX_SHOWN:,} more" if len(parts) > MAX_SHOWN else ""
        return ", ".join(parts[:MAX_SHOWN]) + more


WEIGHT_ROLES = (Role.WEIGHT_SCALE, Role.WEIGHT_GLOBAL_SCALE)
INPUT_ROLES = (Role.INPUT_SCALE, Role.INPUT_GLOBAL_SCALE)
_SCALES = frozenset({*WEIGHT_ROLES, *INPUT_ROLES})


class Member(NamedTuple):
    """A scale that a module uses (`module`: of a KV scale, the attention), with what its values are."""

    module: str
    role: Role
    stats: ScaleStats


@lru_cache(maxsize=1 << 17)
def family_of(module: str) -> str:
    """The module's name without numbers: "model.layers.*.mlp.experts.*.up_proj"."""
    return family(module)


def scale_families(context: Context, roles: Iterable[Role]) -> Iterator[Sequence[Member]]:
    """Sound scales of `roles`, by role, projection and scheme; a tensor that several modules share counts once.

    Layers that are quantized in other ways are families of their own: their scales mean other things.
    """
    if context.scales is not None:
        for role in roles:
            yield from context.scales.families.get(role, ())


def families_by_role(checkpoint: Checkpoint, by_name: Mapping[str, ScaleStats]) -> Mapping[Role, list[list[Member]]]:
    """The families of every role."""
    families: dict[tuple[object, ...], dict[str, Member]] = {}
    for module, role, name, meaning in _scales(checkpoint):
        stats = by_name.get(name)
        if stats is not None and stats.is_sound:
            families.setdefault((role, family_of(module), meaning), {}).setdefault(name, Member(module, role, stats))
    found: dict[Role, list[list[Member]]] = {}
    for members in families.values():
        known = list(members.values())
        found.setdefault(known[0].role, []).append(known)
    return found


def _scales(checkpoint: Checkpoint) -> Iterator[tuple[str, Role, str, int]]:
    """Module, role, the tensor's name, and a number that is equal where schemes mean the same."""
    numbers: dict[object, int] = {}
    of_scheme: dict[int, int] = {}  # by identity: tens of thousands of modules share few schemes
    for info in checkpoint.lowered.modules.values():
        scheme = info.scheme
        if id(scheme) not in of_scheme:
            meaning = scheme and (scheme.weight, scheme.second_level)
            of_scheme[id(scheme)] = numbers.setdefault(meaning, len(numbers))
        for role, meta in info.tensors.items():
            if role in _SCALES:
                yield info.name, role, meta.name, of_scheme[id(scheme)]
    for (attention, role), meta in checkpoint.lowered.kv.items():
        yield attention, role, meta.name, -1


_KEYS = frozenset({"k_proj", "qkv_proj"})
"""Last components of the layers by which an attention module is told where no family names it."""


def attentions(checkpoint: Checkpoint) -> list[str]:
    """Attention modules of a family that is not known: those that hold keys, and those that have a scale stored."""
    parts = (name.rpartition(".") for name in checkpoint.lowered.modules)
    found = dict.fromkeys(parent for parent, _, last in parts if last in _KEYS)
    return list(found | dict.fromkeys(attention for attention, _ in checkpoint.lowered.kv))


def middle(numbers: Iterable[float]) -> float:
    """The median, the upper of two. Raises `IndexError` for no number at all."""
    ordered = sorted(numbers)
    return ordered[len(ordered) // 2]
