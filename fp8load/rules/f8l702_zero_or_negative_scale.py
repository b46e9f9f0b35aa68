"""F8L702: a scale is zero or negative, or the least exponent there is over weights that are not zero."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from operator import eq

from fp8load.dtypes import DType
from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.repairs.blocks import has_blocks, only_under
from fp8load.rules.repairs.sound import zero
from fp8load.rules.samples import BLOCK, QUANTIZED
from fp8load.rules.scale_stats import ScaleStats
from fp8load.rules.scales import unsound

SCALE = "model.layers.0.mlp.down_proj.weight_scale_inv"
LEAST = 2.0**-127
"""What byte 0 is in E8M0, which has no zero."""

_DEAD = "export the layer again: its block becomes zero, or dividing by it overflows"
_EMPTY = "ComfyUI writes zero for a block that has only zeros, as padding has"


def check(context: Context) -> Iterator[Problem]:
    """Every scale with elements that are not positive; those that no weight uses are only noted."""
    if context.scales is None:
        return
    unused = context.checkpoint.lowered.unused
    for stats in context.scales.stats:
        if _is_least(stats) and stats.meta.name not in unused and context.weights is not None:
            yield from _over_weights(context, stats)
        if stats.first_not_positive < 0:
            continue
        is_empty = stats.meta.name in context.checkpoint.lowered.repacks and not stats.num_negative
        problem = unsound(
            stats, unused, code="F8L702", wanted="positive",
            counts={"zero": stats.num_zero, "negative": stats.num_negative}, first=stats.first_not_positive,
            hint=_EMPTY if is_empty else _DEAD, refuses=False,
        )  # fmt: skip
        yield replace(problem, severity=Severity.INFO) if is_empty else problem


def _is_least(stats: ScaleStats) -> bool:
    return stats.meta.dtype is DType.F8_E8M0 and stats.smallest == LEAST


def _over_weights(context: Context, stats: ScaleStats) -> Iterator[Problem]:
    """A quantizer writes the least exponent for a block of zeros; over any other code it erases the block."""
    meta = stats.meta
    if has_blocks(context, meta.name) and not only_under(context, meta.name, chosen=partial(eq, LEAST), fine=zero):
        yield Problem(
            code="F8L702", message="a scale is the least exponent there is, and its block is not zero",
            tensor=meta.name, file=meta.file, expected="byte 0 over blocks of zeros only", refuses=False,
            got=f"byte 0 (2 ** -127) over other codes; {stats.num_dead:,} of {meta.num_elements:,} exponents are next "
            f"to nothing, the first at {stats.position(stats.first_dead)}",
            hint="export the layer again: the exponent was lost, and its block is erased",
        )  # fmt: skip


RULE = Rule(
    code="F8L702",
    name="zero-or-negative-scale",
    level="scales",
    severity=Severity.ERROR,
    what="Every element of every scale is above zero. At level weights: an exponent of E8M0 is the least, byte 0, "
    "over blocks of zeros only.",
    why="A zero scale erases its block; a zero input or KV scale divides by zero while running.",
    fix="Export the layer again, with a floor under the scales.",
    check=check,
    examples=(
        Example(title="zero", skeleton=BLOCK + QUANTIZED, count=1, values={SCALE: 0.0}),
        Example(title="a scale of a dead block", skeleton=BLOCK + QUANTIZED, count=0, values={SCALE: 1e-23}),
    ),
)
