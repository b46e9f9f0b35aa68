"""Scales of the KV cache that a checkpoint lacks, or has too many of, by the layers that its family has."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from fp8load.archs.model import Model
from fp8load.errors import Problem
from fp8load.formats.kv_names import KV_ROLES
from fp8load.formats.lowered import Lowered
from fp8load.index.index import TensorMeta
from fp8load.scheme import Role


def cache_scales(model: Model, lowered: Lowered) -> Iterator[Problem]:
    """KV scales are there for every layer and for k and v, or for none: a missing one must not become 1.0 silently.

    Where at most half of the layers have a scale, those that have it are named too: one may be a leftover. Where it is
    half of them, keys and values count together: of a model of two layers one lost scale does not accuse the other.
    """
    if not lowered.kv:
        return
    attentions = list(model.attentions())
    stored = {role for _, role in lowered.kv}
    roles = [role for role in KV_ROLES if role in stored or role in (Role.K_SCALE, Role.V_SCALE)]
    there = {role: [attention for attention in attentions if (attention, role) in lowered.kv] for role in roles}
    num_pairs = len(there[Role.K_SCALE]) + len(there[Role.V_SCALE])
    for role in roles:
        of_pair = role in (Role.K_SCALE, Role.V_SCALE)
        num_stored, half = 2 * len(there[role]), len(attentions)
        if num_stored < half or (num_stored == half and not (of_pair and num_pairs > half)):
            got = f"this layer has one, and {len(attentions) - len(there[role])} of {len(attentions)} have none"
            for meta in (lowered.kv[attention, role] for attention in there[role]):
                yield _problem("a KV-cache scale that other layers do not have: a leftover, or theirs are lost",
                               meta.name, meta.file, "one in every layer, or in none", got)  # fmt: skip
    for role in roles:
        suffix = _suffix(lowered, role)
        for attention in attentions:
            if (attention, role) not in lowered.kv:
                yield _problem("a KV-cache scale is missing", attention + suffix, "", "a scale [1]", "none")
    for (attention, _), meta in lowered.kv.items():
        yield from _misplaced(attention, meta, attentions)


def _misplaced(attention: str, meta: TensorMeta, attentions: Collection[str]) -> Iterator[Problem]:
    """A KV scale that belongs to no attention module of the family."""
    if attention not in attentions:
        yield Problem(code="F8L902", message="a KV-cache scale belongs to no attention module", tensor=meta.name,
                      file=meta.file, expected=f"one of {len(attentions)} modules", got=attention,
                      hint="a leftover, or of another model: every reader drops it")  # fmt: skip


def _problem(message: str, tensor: str, file: str, expected: str, got: str) -> Problem:
    return Problem(code="F8L901", message=message, tensor=tensor, file=file, expected=expected, got=got,
                   hint="engines run a cache without its scale at 1.0, and do not say so")  # fmt: skip


def _suffix(lowered: Lowered, role: Role) -> str:
    """What a missing KV scale would be called after its attention module: as another layer's, or the other role's."""
    stored = ((other, meta.name[len(attention) :]) for (attention, other), meta in lowered.kv.items())
    other, suffix = min(stored, key=lambda item: item[0] is not role, default=(role, f".{role}"))
    return suffix.replace(f".{other[0]}_", f".{role[0]}_")
