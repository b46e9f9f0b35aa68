"""F8L105: a weight or scale is not of the dtype that the configuration says, or no group claims a quantized module."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule, found
from fp8load.rules.samples import BLOCK, QUANTIZED

RULE = Rule(
    code="F8L105",
    name="config-group-contradiction",
    level="headers",
    severity=Severity.ERROR,
    what="The group of the configuration that claims a module agrees with the dtypes of its weight and scales.",
    why="Engines choose the kernel by the configuration. A weight of another dtype is read as if it had that one.",
    fix="Correct the group in config.json, or export again.",
    check=found("F8L105"),
    examples=(
        Example(title="e4m3 is declared, e5m2 is stored", count=1,
                skeleton=BLOCK + QUANTIZED.replace("F8_E4M3", "F8_E5M2")),
        Example(title="as declared", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)  # fmt: skip
