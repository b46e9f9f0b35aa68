"""F8L402: members of a layer that engines fuse have different scales, of which the fused layer keeps one."""

from __future__ import annotations

from collections.abc import Iterator

from fp8load.dtypes import DType
from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.fused import FusedGroup, is_mixed
from fp8load.rules.samples import NVFP4, NVFP4_GATE_UP, STATIC, TENSOR_WISE
from fp8load.rules.siblings import differing
from fp8load.scheme import PerTensor, Role

Q_SCALE = "model.layers.0.self_attn.q_proj.weight_scale"
UP_SCALE = "model.layers.0.mlp.up_proj.weight_scale_2"


def check(context: Context) -> Iterator[Problem]:
    """One problem for each fused group: global scales of FP4 are errors, scales of whole FP8 tensors are noted."""
    if context.scales is None:
        return
    for group in context.checkpoint.stored.fused:
        role = _one_for_all(group)
        if role is not None:
            yield from _problems(context, group, role)


def _one_for_all(group: FusedGroup) -> Role | None:
    """The scale of which a fused layer has one: of FP4 the global scale, of FP8 per tensor the only one."""
    scheme = group.members[0].scheme
    if group.fused_on_disk or len(group.members) < 2 or scheme is None or is_mixed(group):
        return None
    if scheme.second_level is not None and scheme.weight.dtype is DType.F4:
        return Role.WEIGHT_GLOBAL_SCALE
    return Role.WEIGHT_SCALE if scheme.weight.granularity == PerTensor() else None


def _problems(context: Context, group: FusedGroup, role: Role) -> Iterator[Problem]:
    found = differing(context, group.members, role)
    if found is None:
        return
    is_global = role is Role.WEIGHT_GLOBAL_SCALE
    last = group.name.rpartition(".")[2]
    kind = "global scales" if is_global else "scales"
    yield Problem(
        code="F8L402", message=f"{kind} of the members of {last} differ, and engines keep one for all",
        tensor=found.meta.name, module=group.name, file=found.meta.file, expected="one number for all members",
        got=found.text, severity=_severity(context, is_global=is_global), refuses=False,
        hint="quantize the members together, with the largest of their ranges" if is_global
        else "an engine that takes the largest without requantizing makes the other members larger by that factor",
    )  # fmt: skip


def _severity(context: Context, *, is_global: bool) -> Severity:
    """FP8 is requantized by most engines, which is legal and changes its numbers: a warning where one is named."""
    if is_global:
        return Severity.ERROR
    return Severity.WARNING if context.engines else Severity.INFO


RULE = Rule(
    code="F8L402",
    name="sibling-scales-differ",
    level="scales",
    severity=Severity.ERROR,
    what="The members of a fused layer (q/k/v, gate/up, w1/w3) share one global scale where they are FP4. Scales of "
    "whole FP8 tensors may differ, which is noted, and with --engine a warning: engines requantize such members.",
    why="Kernels take one global scale for the fused layer. Engines use the largest and leave the block scales as they "
    "are, so every other member becomes too large, without an error.",
    fix="Quantize q/k/v and gate/up together; tools have an option that shares the scale.",
    check=check,
    examples=(
        Example(title="FP4 of gate and up, 1.25 times apart", skeleton=NVFP4 + NVFP4_GATE_UP, count=1,
                values={UP_SCALE: 1.25}),
        Example(title="one global scale", skeleton=NVFP4 + NVFP4_GATE_UP, count=0),
        Example(title="FP8, noted", skeleton=STATIC + TENSOR_WISE, count=1, values={Q_SCALE: 0.5}),
    ),
)  # fmt: skip
