"""F8L708: a scale is next to nothing: its block was never trained, or holds zeros."""

from __future__ import annotations

from collections.abc import Iterator

from fp8load.dtypes import DType
from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED
from fp8load.rules.scale_stats import DEAD

SCALE = "model.layers.0.mlp.down_proj.weight_scale_inv"


def check(context: Context) -> Iterator[Problem]:
    """Scales with positive elements below 1e-15. Of exponents only noted: tools write the least for blocks of zeros."""
    if context.scales is None:
        return
    unused = context.checkpoint.lowered.unused
    for stats in context.scales.stats:
        meta = stats.meta
        if stats.num_dead and meta.name not in unused:
            yield Problem(
                code="F8L708", message="a scale is next to nothing", tensor=meta.name, file=meta.file,
                expected=f"{meta.num_elements:,} numbers from {DEAD:g}",
                got=f"{stats.num_dead:,} below, the first at {stats.position(stats.first_dead)}",
                severity=Severity.INFO if meta.dtype is DType.F8_E8M0 else Severity.WARNING, refuses=False,
                hint="experts that training never reached have such blocks, and the weights are right; some kernels "
                "divide by the scale and make NaN of it",
            )  # fmt: skip


RULE = Rule(
    code="F8L708",
    name="dead-block",
    level="scales",
    severity=Severity.WARNING,
    what="No scale lies between 0 and 1e-15.",
    why="The weights are right, and next to zero. Kernels that requantize or divide have made NaN of such blocks.",
    fix="Put a floor under the scales where the block is zero anyway, or use kernels that multiply only.",
    check=check,
    examples=(
        Example(title="1e-23, as untrained experts have", skeleton=BLOCK + QUANTIZED, count=1, values={SCALE: 1e-23}),
        Example(title="1e-9", skeleton=BLOCK + QUANTIZED, count=0, values={SCALE: 1e-9}),
        Example(title="zero is another rule's", skeleton=BLOCK + QUANTIZED, count=0, values={SCALE: 0.0}),
    ),
)
