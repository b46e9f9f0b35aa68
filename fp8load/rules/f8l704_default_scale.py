"""F8L704: the scales of a family are all one number: never calibrated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from fp8load.dtypes import DType
from fp8load.errors import Problem, Severity
from fp8load.formats.stacked import of_expert
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.families import INPUT_ROLES, WEIGHT_ROLES, Member, scale_families
from fp8load.rules.samples import STATIC, TENSOR_WISE

FEWEST = 4
"""Layers whose scales may not all be one number, unless it is 1. Tools share scales among the experts of one."""

SHARE = 0.9
INPUTS = [f"model.layers.{layer}.self_attn.{part}_proj.input_scale" for layer in (0, 1) for part in "qkv"]
WEIGHTS = [name.replace("input", "weight") for name in INPUTS]
CALIBRATED = {name: 0.25 * 2**-at for at, name in enumerate([*INPUTS, *WEIGHTS])}


def check(context: Context) -> Iterator[Problem]:
    """Each member of a family in which more than nine of ten are exactly 1, or one other number."""
    for family in scale_families(context, (*WEIGHT_ROLES, *INPUT_ROLES)):
        numbers = Counter(member.stats.constant for member in family)
        number, count = numbers.most_common(1)[0]
        if number is None or len(family) < 2 or count <= SHARE * len(family):
            continue
        if number == 1 or (_num_layers(family) >= FEWEST and _tells(family[0])):
            loud = Severity.WARNING if context.engines else Severity.INFO
            yield from (_problem(member, number, loud) for member in family if member.stats.constant == number)


def _num_layers(family: Sequence[Member]) -> int:
    """Layers, where the experts of one count once."""
    experts = (of_expert(member.module) for member in family)
    return len({member.module if one is None else one[0] for member, one in zip(family, experts, strict=True)})


def _tells(member: Member) -> bool:
    """Whether equal numbers are odd: exponents are often equal, and so are the few values of eight bits."""
    return member.stats.meta.dtype not in (DType.F8_E8M0, DType.F8_E4M3)


def _problem(member: Member, number: float, severity: Severity) -> Problem:
    meta = member.stats.meta
    return Problem(
        code="F8L704", message=f"scales of a family are all {number:.6g}", tensor=meta.name, file=meta.file,
        expected="a number for each tensor, from its own range", got=f"{number:.6g} everywhere",
        severity=severity, refuses=False,
        hint="a default that was never calibrated, or a cast without scaling: see whether outputs are good",
    )  # fmt: skip


RULE = Rule(
    code="F8L704",
    name="default-scale",
    level="scales",
    severity=Severity.INFO,
    what="Notes weight and input scales that are exactly 1.0 in nine of ten layers, or the same other number. With "
         "--engine that is a warning.",
    why="Tools start scales at 1.0; a layer that calibration never reached keeps it, and its inputs are clipped.",
    fix="Calibrate again, or use dynamic input scales. A raw cast has scales of 1 on purpose.",
    check=check,
    examples=(
        Example(title="every scale is 1.0", skeleton=STATIC + TENSOR_WISE, count=12),
        Example(title="calibrated", skeleton=STATIC + TENSOR_WISE, count=0, values=CALIBRATED),
        Example(title="input scales are 1.0", skeleton=STATIC + TENSOR_WISE, count=6,
                values={name: CALIBRATED[name] for name in WEIGHTS}),
    ),
)  # fmt: skip
