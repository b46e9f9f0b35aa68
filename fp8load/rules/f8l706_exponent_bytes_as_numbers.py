"""F8L706: the bytes of exponents were saved as numbers."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import POWERS, QUANTIZED
from fp8load.rules.scale_stats import ScaleStats

SCALE = "model.layers.0.mlp.down_proj.weight_scale_inv"


def are_bytes(stats: ScaleStats) -> bool:
    """Whether every element is a whole number from 1 to 254, and one of them no power of two."""
    return stats.num_uneven > 0 and stats.num_whole == stats.meta.num_elements


def check(context: Context) -> Iterator[Problem]:
    """Float scales that are powers of two by rule, and hold what bytes of exponents would hold."""
    if context.scales is None:
        return
    for stats in context.scales.stats:
        if stats.meta.name in context.scales.powers and are_bytes(stats):
            meta = stats.meta
            yield Problem(
                code="F8L706", message="a scale holds exponents as if they were numbers", tensor=meta.name,
                file=meta.file, expected="powers of two, by scale_fmt ue8m0",
                got=f"{meta.num_elements:,} whole numbers from 1 to 254",
                hint="E8M0 bytes were cast to a float: the scales meant are 2 ** (number - 127); export again",
            )  # fmt: skip


RULE = Rule(
    code="F8L706",
    name="exponent-bytes-as-numbers",
    level="scales",
    severity=Severity.ERROR,
    what="Scales that are powers of two by rule do not all hold whole numbers from 1 to 254, such as 120.0.",
    why="A byte 120 means 2 ** -7. Cast to a float it becomes 120.0, and weights 15,360 times too large.",
    fix="Export the scales again, as F8_E8M0 or as the numbers that the bytes mean.",
    check=check,
    examples=(
        Example(title="120.0", skeleton=POWERS + QUANTIZED, count=1, values={SCALE: 120.0}),
        Example(title="scales of 1", skeleton=POWERS + QUANTIZED, count=0),
    ),
)
