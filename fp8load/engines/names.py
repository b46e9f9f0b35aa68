"""Does the engine find every tensor: names of scales, layers that it builds in 16 bits, layouts of experts."""

from __future__ import annotations

from collections.abc import Iterator

from fp8load.engines.profile import ExpertsFact, FormatFact, Layout, Profile
from fp8load.engines.stored import Held, Stored
from fp8load.engines.verdict import Target, Verdict
from fp8load.formats.lowered import ModuleInfo
from fp8load.scheme import Role

LAYOUTS: dict[Layout, str] = {
    "single": "one tensor for each expert",
    "stacked": "one tensor for all experts",
    "scales-stacked": "a weight for each expert, and one tensor with the scales of all",
}


def suffixes(profile: Profile, stored: Stored, _target: Target) -> Iterator[Verdict]:
    """Scales under a suffix that the engine does not read."""
    fact = profile.formats.get(stored.format)
    if fact is None:
        return
    for held in stored.held:
        if held.layout == "single":
            for role, known in fact.names.get(held.kind, {}).items():
                yield from _unread(fact, held, Role(role), known, stored)


def _unread(fact: FormatFact, held: Held, role: Role, known: tuple[str, ...], stored: Stored) -> Iterator[Verdict]:
    suffix = dict(held.scheme.suffixes).get(role)
    if suffix is None or suffix in known:
        return
    for info in held.modules:
        if role not in info.tensors:
            continue
        tensor, file = stored.stored_tensor(info, role)
        yield Verdict(
            text=f"does not read {suffix}: {fact.unnamed}", module=info.name, tensor=tensor, file=file,
            expected=" or ".join(known) or "no such tensor", got=suffix,
            remedy=f"rename {suffix} to {known[0]}; the numbers are the same" if known else f"remove {suffix}",
        )  # fmt: skip


def unquantized(profile: Profile, stored: Stored, _target: Target) -> Iterator[Verdict]:
    """Quantized modules that the engine builds in 16 bits, with no place for a scale."""
    fact = profile.formats.get(stored.format)
    if fact is None or stored.ends.isdisjoint(fact.unquantized):
        return
    for held in stored.held:
        for info in held.modules:
            if info.name.rpartition(".")[2] in fact.unquantized:
                tensor, file = stored.stored_tensor(info, Role.WEIGHT_SCALE)
                yield Verdict(
                    text="builds this layer in 16 bits and has no place for its scale", module=info.name,
                    tensor=tensor, file=file, expected="a 16-bit weight", got=str(info.tensors[Role.WEIGHT]),
                    remedy="dequantize the layer and add it to the ignore list",
                )  # fmt: skip


def experts(profile: Profile, stored: Stored, _target: Target) -> Iterator[Verdict]:
    """Experts in a layout that the engine's names do not reach."""
    fact = profile.formats.get(stored.format)
    layouts = None if fact is None else _layouts(fact, stored.family)
    if layouts is None:
        return
    unread: dict[tuple[str, str], tuple[ModuleInfo, Layout]] = {}
    for held in stored.held:
        if held.is_expert and held.layout not in layouts.layouts:
            for info in held.modules:
                unread.setdefault(stored.stored_tensor(info, Role.WEIGHT_SCALE), (info, held.layout))
    for (tensor, file), (info, layout) in unread.items():
        yield Verdict(
            text=f"does not know experts stored as {LAYOUTS[layout]}: {layouts.otherwise}",
            module=info.name.rpartition(".")[0].rpartition(".")[0], tensor=tensor, file=file, got=LAYOUTS[layout],
            expected=" or ".join(LAYOUTS[known] for known in layouts.layouts),
            remedy=f"store the experts as {' or '.join(LAYOUTS[known] for known in layouts.layouts)}",
        )  # fmt: skip


def _layouts(fact: FormatFact, family: str) -> ExpertsFact | None:
    """What is known of experts of this family; what is said of all families counts last."""
    ordered = sorted(fact.layouts, key=lambda entry: not entry.families)
    return next((entry for entry in ordered if not entry.families or family in entry.families), None)
