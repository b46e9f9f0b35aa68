"""Does the engine find the config group of compressed-tensors that was meant, of layers that it fuses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fp8load.engines.profile import Profile, TargetsFact
from fp8load.engines.stored import Stored
from fp8load.engines.verdict import Target, Verdict
from fp8load.formats.base import Claimed
from fp8load.formats.match import exact_or_regex
from fp8load.scheme import Role

if TYPE_CHECKING:
    from fp8load.rules.fused import FusedGroup

LINEAR = "Linear"
"""The only class of which every fused layer of the engines is one: it is a part of the names of their classes."""


def of_fused(profile: Profile, stored: Stored, _target: Target) -> Iterator[Verdict]:
    """Fused layers that the engine gives another config group than their parts have."""
    fact = profile.formats.get(stored.format)
    groups = stored.document.get("config_groups")
    if fact is None or fact.targets is None or not isinstance(groups, Mapping) or len(groups) < 2:
        return
    for fused in stored.fused:
        meant = _meant(fused, stored, groups)
        taken = None if meant is None else _taken(fact.targets, fused, groups)
        if meant is None or taken is None or groups[taken].get("weights") == groups[meant].get("weights"):
            continue
        for info in fused.members:
            tensor, file = stored.stored_tensor(info, Role.WEIGHT)
            yield Verdict(
                text=f"takes {taken} for the fused layer, by its class, before it looks for the names of its parts",
                module=info.name, tensor=tensor, file=file, expected=f"{meant}, which names the parts", got=taken,
                remedy=f"name the fused layer itself ({fused.name}) among the targets of {meant}",
            )  # fmt: skip


def _meant(fused: FusedGroup, stored: Stored, groups: Mapping[str, Any]) -> str | None:
    """The one group that the parts of a layer have; None where they have none, or several."""
    claims = [stored.checkpoint.format.claim(info.name) for info in fused.members]
    names = {claim.by.removeprefix("group ") if isinstance(claim, Claimed) else "" for claim in claims}
    return names.pop() if not fused.fused_on_disk and len(names) == 1 and names <= set(groups) else None


def _taken(fact: TargetsFact, fused: FusedGroup, groups: Mapping[str, Any]) -> str | None:
    """The group that the engine finds before it looks at the parts; None where it gets to them."""
    for step in fact.order:
        if step == "parts":
            return None
        for name, group in groups.items():
            if any(_means(step, target, fused.name) for target in group.get("targets", ())):
                return name
    return None


def _means(step: str, target: str, module: str) -> bool:
    return exact_or_regex(target, module) if step == "name" else target == LINEAR
