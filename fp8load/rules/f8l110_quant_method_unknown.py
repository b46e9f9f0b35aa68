"""F8L110: a configuration that cannot be read, or that names an unknown method."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule, found
from fp8load.rules.samples import BLOCK, QUANTIZED

RULE = Rule(
    code="F8L110",
    name="quant-method-unknown",
    level="headers",
    severity=Severity.ERROR,
    what="config.json is valid JSON, and its quant_method is one that fp8load knows.",
    why="No reader can tell what the bytes mean; some take an unknown method for 4-bit integers.",
    fix="Correct quant_method; if it is right, this version does not support it yet.",
    check=found("F8L110"),
    examples=(
        Example(title="a method that does not exist", count=1,
                skeleton=BLOCK.replace('"fp8"', '"fp9"') + QUANTIZED),
        Example(title="fp8", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)  # fmt: skip
