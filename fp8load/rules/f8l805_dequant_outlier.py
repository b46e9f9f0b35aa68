"""F8L805: a dequantized weight is far larger or smaller than the same projection of other layers."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, log2

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.families import family_of, middle
from fp8load.rules.samples import BLOCK, QUANTIZED
from fp8load.rules.weights import WeightStats

FACTOR = 30.0
DEAD = 1e-12
"""Weights of experts that training never reached; they are as they should be."""

LAYERS = QUANTIZED.replace("layers.0", "layers.{0..3}")
SCALES = [f"model.layers.{layer}.mlp.down_proj.weight_scale_inv" for layer in range(4)]
PAIR = QUANTIZED.replace("layers.0.mlp.down", "layers.{0..1}.mlp.{down,gate,up}")


def check(context: Context) -> Iterator[Problem]:
    """Quantized weights whose size is out of proportion to their family's median; of a pair that disagrees, the one
    that is further from all weights."""
    if context.weights is None:
        return
    families: dict[str, list[WeightStats]] = {}
    for stats in context.weights.stats:
        if stats.module is not None and stats.module.scheme is not None and DEAD < stats.rms < inf:
            families.setdefault(family_of(stats.module.name), []).append(stats)
    if not families:
        return
    everything = middle(stats.rms for family in families.values() for stats in family)
    for family in families.values():
        usual = middle(stats.rms for stats in family)
        if len(family) == 2:
            usual = min((stats.rms for stats in family), key=lambda rms: abs(log2(rms / everything)))
        for stats in family:
            if not usual / FACTOR <= stats.rms <= usual * FACTOR:
                yield _problem(stats, usual)


def _problem(stats: WeightStats, usual: float) -> Problem:
    meta = stats.meta
    return Problem(
        code="F8L805", message="a dequantized weight is out of all proportion to the same projection of other layers",
        tensor=meta.name, file=meta.file, expected=f"a root mean square of about {usual:.3g}, as the others",
        got=f"{stats.rms:.3g}, {max(stats.rms / usual, usual / stats.rms):,.0f} times "
        f"{'more' if stats.rms > usual else 'less'}",
        severity=Severity.WARNING, refuses=False,
        hint="a scale of another layer, or of an earlier export: export this layer again",
    )  # fmt: skip


RULE = Rule(
    code="F8L805",
    name="dequant-outlier",
    level="weights",
    severity=Severity.WARNING,
    what="The root mean square of a dequantized weight is within a factor of 30 of that projection in other layers.",
    why="A scale that is stale, swapped or applied twice leaves shapes, dtypes and ranges of codes as they should be.",
    fix="Export the layer again; `fp8load verify --against` the source shows by how much it is off.",
    check=check,
    examples=(
        Example(title="one layer is 700 times larger", skeleton=BLOCK + LAYERS, count=1,
                values={**dict.fromkeys(SCALES, 2e-4), SCALES[3]: 0.14}),
        Example(title="of two layers the one that is unlike everything", skeleton=BLOCK + PAIR, count=1,
                values={SCALES[1]: 100.0}),
        Example(title="twenty times", skeleton=BLOCK + LAYERS, count=0,
                values={**dict.fromkeys(SCALES, 2e-4), SCALES[3]: 4e-3}),
        Example(title="an expert that was never trained", skeleton=BLOCK + LAYERS, count=0,
                values={**dict.fromkeys(SCALES, 2e-4), SCALES[3]: 1e-23}),
    ),
)  # fmt: skip
