"""F8L107: the configuration asks for something that this version does not know."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule, found
from fp8load.rules.samples import BLOCK, QUANTIZED

RULE = Rule(
    code="F8L107",
    name="scheme-unsupported",
    level="headers",
    severity=Severity.ERROR,
    what="Every value of the quantization configuration is one that fp8load knows.",
    why="Guessing at an unknown value could mean a wrong dequantization, so nothing is loaded.",
    fix="Check the key's spelling; if it is right, say so in an issue. `fp8load inspect --tensors` still works.",
    check=found("F8L107"),
    examples=(
        Example(title="an activation scheme that does not exist", count=1,
                skeleton=BLOCK.replace("dynamic", "sometimes") + QUANTIZED),
        Example(title="a known one", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)  # fmt: skip
