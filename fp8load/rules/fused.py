"""Layers that engines fuse, as a checkpoint stores them; what rules about fused groups look at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from fp8load.archs.base import Experts, Linear
from fp8load.archs.model import Model, expert_entries, is_fused_on_disk
from fp8load.formats.inside import COMFYUI
from fp8load.formats.lowered import Lowered, ModuleInfo
from fp8load.formats.stacked import of_expert
from fp8load.scheme import Role

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint

PARTS = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "w13": ("w1", "w3"),
    "fused_qkv_a_proj": ("q_a_proj", "kv_a_proj_with_mqa"),
    "fused_wqa_wkv": ("wq_a", "wkv"),
    "in_proj_qkvz": ("in_proj_qkv", "in_proj_z"),
    "in_proj_ba": ("in_proj_b", "in_proj_a"),
    "to_qkv": ("to_q", "to_k", "to_v"),
}
"""Fused name -> members, for families that are not known. Whole components; used only where the members are stored."""

FUSED_NAMES = frozenset({*PARTS, "query_key_value", "W_pack", "Wqkv"})


class FusedGroup(NamedTuple):
    """A fused layer: its name, and the members that are stored; one member named like the layer: fused on disk.

    `by_name`: no family says that engines make one parameter of the members, only what they are called.
    """

    name: str
    members: tuple[ModuleInfo, ...]
    fused_on_disk: bool
    by_name: bool = False


def find_groups(checkpoint: Checkpoint) -> Iterator[FusedGroup]:
    """Every layer of several parts. Absent members do not count: some families leave v out. ComfyUI fuses no layers.

    Several rules look at them: `checkpoint.stored.fused` keeps them.
    """
    if checkpoint.format.name in COMFYUI:
        return
    if checkpoint.model is not None:
        yield from _of_family(checkpoint.model, checkpoint.lowered)
    else:
        yield from _by_name(checkpoint.lowered)


def _of_family(model: Model, lowered: Lowered) -> Iterator[FusedGroup]:
    modules = lowered.modules
    for at, entry in _layers(model, lowered):
        if len(entry.parts) < 2:
            continue
        if is_fused_on_disk(entry, at, modules):
            yield FusedGroup(at + entry.target, (modules[at + entry.target],), fused_on_disk=True)
        members = tuple(modules[at + part.module] for part in entry.parts if at + part.module in modules)
        if members:
            yield FusedGroup(at + entry.target, members, fused_on_disk=False)


def _layers(model: Model, lowered: Lowered) -> Iterator[tuple[str, Linear]]:
    for at, entry in model.entries():
        if isinstance(entry, Linear):
            yield at, entry
        elif isinstance(entry, Experts):
            yield from ((module, linear) for linear, module in expert_entries(model, lowered.modules, at, entry))


def _by_name(lowered: Lowered) -> Iterator[FusedGroup]:
    fused_of = {part: target for target, parts in PARTS.items() for part in parts}
    groups: dict[str, list[ModuleInfo]] = {}
    for name, info in lowered.modules.items():
        parent, _, last = name.rpartition(".")
        if last in FUSED_NAMES:
            yield FusedGroup(name, (info,), fused_on_disk=True, by_name=True)
        elif last in fused_of:
            groups.setdefault(f"{parent}.{fused_of[last]}", []).append(info)
    for name, members in groups.items():
        yield FusedGroup(name, tuple(members), fused_on_disk=False, by_name=True)


def expert_groups(checkpoint: Checkpoint) -> Iterator[FusedGroup]:
    """For each layer and projection that module of every routed expert: engines make one parameter of them."""
    if checkpoint.format.name in COMFYUI:
        return
    groups: dict[tuple[str, str], list[ModuleInfo]] = {}
    for info in checkpoint.lowered.modules.values():
        one = of_expert(info.name)
        if one is not None and one[0].endswith("experts"):
            groups.setdefault(one, []).append(info)
    for (above, last), members in groups.items():
        if len(members) > 1:
            yield FusedGroup(f"{above}.{last}", tuple(members), fused_on_disk=False, by_name=True)


def in_order(group: FusedGroup) -> tuple[ModuleInfo, ...]:
    """The members as they follow each other in the fused layer, not as they lie in the file."""
    parts = PARTS.get(group.name.rpartition(".")[2])
    if parts is None or not {info.name.rpartition(".")[2] for info in group.members} <= {*parts}:
        return group.members
    return tuple(sorted(group.members, key=lambda info: parts.index(info.name.rpartition(".")[2])))


def kind(info: ModuleInfo, group: FusedGroup) -> tuple[object, ...] | None:
    """What must be equal among the members of one parameter; None for a weight that has a fault of its own.

    Suffixes on disk and scale dtypes may differ: they are widened alike. By name alone neither a bias nor the width of
    plain floats tells: Whisper's k_proj has no bias beside q_proj and v_proj, and engines fill it with zeros.
    """
    scheme, weight = info.scheme, info.tensors[Role.WEIGHT]
    bias = None if group.by_name else info.bias_dtype
    if scheme is None:
        return None if not weight.dtype.is_wide_float else (None if group.by_name else weight.dtype, bias)
    return (scheme.weight.dtype, scheme.weight.granularity, scheme.input and scheme.input.granularity,
            scheme.input_static, scheme.transforms, scheme.residual_rank, bias)  # fmt: skip


def is_mixed(group: FusedGroup) -> bool:
    """Whether members are stored in different ways, so that no one parameter can hold them."""
    first = group.members[0]
    if first.scheme is not None and all(
        info.scheme is first.scheme and info.bias_dtype is first.bias_dtype for info in group.members
    ):
        return False  # nearly always, and without a comparison of schemes
    return len({kind(info, group) for info in group.members} - {None}) > 1


def can_be_planned(checkpoint: Checkpoint) -> bool:
    """Whether the family is known and nothing stands against a plan, so that it can be asked which sizes split."""
    if checkpoint.model is None or any(problem.refuses for problem in checkpoint.problems):
        return False
    return not checkpoint.stored.mixed
