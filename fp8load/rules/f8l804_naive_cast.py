"""F8L804: weights were cast to FP8 without scales."""

from __future__ import annotations

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED
from fp8load.scheme import Role

LARGEST = 8.0
"""Trained weights are smaller; codes that a scale belongs to reach 448."""

WEIGHT = "model.layers.0.mlp.down_proj.weight"


def check(context: Context) -> Iterator[Problem]:
    """FP8 weights in the range of trained ones, in a checkpoint where no weight has a scale."""
    if context.weights is None:
        return
    modules = context.checkpoint.lowered.modules.values()
    if any(Role.WEIGHT_SCALE in info.tensors for info in modules):
        return
    for stats in context.weights.stats:
        meta = stats.meta
        if meta.dtype.is_fp8 and not stats.num_bad and 0 < stats.largest < LARGEST:
            yield Problem(
                code="F8L804", message="a weight is a plain cast to FP8, without a scale", tensor=meta.name,
                file=meta.file, expected=f"numbers below {LARGEST:g}, as weights are", got=f"up to {stats.largest:g}",
                severity=Severity.INFO, refuses=False,
                hint="the codes are the weights: say so with --allow-unscaled, or allow_unscaled=True",
            )  # fmt: skip


RULE = Rule(
    code="F8L804",
    name="naive-cast",
    level="weights",
    severity=Severity.INFO,
    what="Notes FP8 weights of a checkpoint without any scale, where the codes are small enough to be the weights.",
    why="It is legal and common for diffusion models; a reader that waits for scales refuses them, or invents some.",
    fix="Nothing to mend. Scaled FP8 of the same size is more exact.",
    check=check,
    examples=(
        Example(title="codes up to 0.5", count=1, values={WEIGHT: 0.5},
                skeleton=BLOCK + QUANTIZED.splitlines()[0] + "\n"),
        Example(title="codes up to 448: their scale is lost", skeleton=BLOCK + QUANTIZED.splitlines()[0] + "\n",
                count=0),
        Example(title="with a scale", skeleton=BLOCK + QUANTIZED, count=0, values={WEIGHT: 0.5}),
    ),
)  # fmt: skip
