"""F8L705: a scale is a thousand times what the same projection has in other layers."""

from __future__ import annotations

from collections.abc import Iterator
from math import log2

from fp8load.errors import Problem, Severity
from fp8load.formats.kv_names import KV_ROLES
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.direction import NONSENSE, reciprocals
from fp8load.rules.families import INPUT_ROLES, WEIGHT_ROLES, Member, middle, scale_families
from fp8load.rules.samples import BLOCK, QUANTIZED
from fp8load.rules.scale_stats import DEAD
from fp8load.scheme import Role

FEWEST = 3
"""Of two scales nobody knows which is wrong."""

_FACTOR = {Role.WEIGHT_SCALE: 1e3, Role.WEIGHT_GLOBAL_SCALE: 1e3}
_INPUT_FACTOR = 1e5
"""Inputs of a few early layers do reach a thousand times those of others; scales of a cache differ by 100, and are no
such number themselves: keys of 448 times as much overflow what computes them."""

_BLOCK_FACTOR = 1e6
"""One block among many: single weights do stand out by a thousand."""

LAYERS = QUANTIZED.replace("layers.0", "layers.{0..3}")
SCALES = [f"model.layers.{layer}.mlp.down_proj.weight_scale_inv" for layer in range(4)]


def check(context: Context) -> Iterator[Problem]:
    """Members of a family whose median, or largest element, is out of all proportion to the family's median.

    Scales of dead blocks (F8L708) and reciprocals (F8L703) are said there.
    """
    turned = {stats.meta.name for _, _, stats in reciprocals(context)}
    for family in scale_families(context, (*WEIGHT_ROLES, *INPUT_ROLES, *KV_ROLES)):
        usual = middle(member.stats.median_log2 for member in family) if len(family) >= FEWEST else None
        for member in family:
            if member.stats.meta.name not in turned and member.stats.largest >= DEAD and _is_far(member, usual):
                yield _problem(member, usual)


def _is_far(member: Member, usual: float | None) -> bool:
    factor = log2(_FACTOR.get(member.role, _INPUT_FACTOR))
    stats = member.stats
    if usual is None:
        return log2(stats.largest) > (factor if member.role in KV_ROLES else NONSENSE)
    return abs(stats.median_log2 - usual) > factor or log2(stats.largest) - usual > log2(_BLOCK_FACTOR)


def _problem(member: Member, usual: float | None) -> Problem:
    stats = member.stats
    meta = stats.meta
    got = f"{stats.largest:.4g}"
    if stats.smallest < stats.largest:
        got = f"from {stats.smallest:.4g} to {stats.largest:.4g}, median {2.0**stats.median_log2:.4g}"
    return Problem(
        code="F8L705", message="a scale is out of all proportion to those of the same projection in other layers",
        tensor=meta.name, file=meta.file, got=got,
        expected="a number that a tensor's range gives" if usual is None else f"about {2.0**usual:.4g}, as the others",
        severity=Severity.WARNING, refuses=False,
        hint="memory that was saved before it was written, or a scale of another layer: export this one again",
    )  # fmt: skip


RULE = Rule(
    code="F8L705",
    name="scale-outlier",
    level="scales",
    severity=Severity.WARNING,
    what="Weight scales of one projection are within a factor of 1,000 over the layers and experts; input and cache "
    "scales within 100,000; no block is a million times the usual one.",
    why="Memory that was never written, or a scale of another tensor, passes every check of shapes.",
    fix="Export the layer again, and compare it with `fp8load verify --against` the source.",
    check=check,
    examples=(
        Example(title="4e30 in one layer", skeleton=BLOCK + LAYERS, count=1,
                values={**dict.fromkeys(SCALES, 2e-4), SCALES[2]: 4e30}),
        Example(title="4e30 alone", skeleton=BLOCK + QUANTIZED, count=1, values={SCALES[0]: 4e30}),
        Example(title="a hundred times", skeleton=BLOCK + LAYERS, count=0,
                values={**dict.fromkeys(SCALES, 2e-4), SCALES[2]: 2e-2}),
    ),
)  # fmt: skip
