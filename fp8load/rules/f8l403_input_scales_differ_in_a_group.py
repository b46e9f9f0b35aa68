"""F8L403: inputs of one layer, as engines build it, have different static scales."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fp8load.errors import Problem, Severity
from fp8load.formats.lowered import ModuleInfo
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.families import INPUT_ROLES
from fp8load.rules.samples import STATIC, TENSOR_WISE
from fp8load.rules.siblings import differing

EXPERTS = """\
model.layers.0.mlp.experts.{0..3}.down_proj.weight                      F8_E4M3  [256, 256]
model.layers.0.mlp.experts.{0..3}.down_proj.{weight_scale,input_scale}  F32      []
"""
K_INPUT = "model.layers.0.self_attn.k_proj.input_scale"


def check(context: Context) -> Iterator[Problem]:
    """One problem for each fused group, and one for the experts of a layer, whose input scales are not all equal."""
    if context.scales is None:
        return
    for group in context.checkpoint.stored.fused:
        if len(group.members) > 1:
            last = group.name.rpartition(".")[2]
            yield from _problems(context, group.members, f"the members of {last}", group.name)
    for group in context.checkpoint.stored.routed:
        last = group.name.rpartition(".")[2]
        quantized = [info for info in group.members if info.scheme is not None]
        if len(quantized) > 1:
            yield from _problems(context, quantized, f"the experts' {last}", group.name)


def _problems(context: Context, members: Sequence[ModuleInfo], what: str, at: str) -> Iterator[Problem]:
    for role in INPUT_ROLES:
        found = differing(context, members, role)
        if found is not None:
            yield Problem(
                code="F8L403", message=f"static input scales of {what} differ", tensor=found.meta.name, module=at,
                file=found.meta.file, expected="one number for all, in engines that assert it", got=found.text,
                severity=Severity.INFO, refuses=False,
                hint="engines take the largest, which is safe; some refuse to load unless all are equal",
            )  # fmt: skip


RULE = Rule(
    code="F8L403",
    name="input-scales-differ-in-a-group",
    level="scales",
    severity=Severity.INFO,
    what="Notes where the static input scales of q/k/v, of gate/up, or of the experts of a layer are not equal.",
    why="The members have one input, so one scale would do. Engines take the largest; some assert that all are equal.",
    fix="Nothing to mend; for an engine that asserts, write the largest into each member.",
    check=check,
    examples=(
        Example(title="k_proj was calibrated apart", skeleton=STATIC + TENSOR_WISE, count=1, values={K_INPUT: 0.5}),
        Example(title="experts", skeleton=STATIC + EXPERTS, count=1,
                values={"model.layers.0.mlp.experts.2.down_proj.input_scale": 0.5}),
        Example(title="equal", skeleton=STATIC + TENSOR_WISE + EXPERTS, count=0),
    ),
)  # fmt: skip
