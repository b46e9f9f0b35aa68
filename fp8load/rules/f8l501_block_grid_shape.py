"""F8L501: a scale's shape does not fit its weight."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule, found
from fp8load.rules.samples import BLOCK, QUANTIZED

RULE = Rule(
    code="F8L501",
    name="block-grid-shape",
    level="headers",
    severity=Severity.ERROR,
    what="A scale has one element for the tensor, for each row or for each block (partial ones included), as declared; "
         "input and KV scales are single numbers.",
    why="A reader that broadcasts or cuts a scale of another shape multiplies weights with the scales of others.",
    fix="Correct weight_block_size in the configuration, or export again.",
    check=found("F8L501"),
    examples=(
        Example(title="a row of blocks is missing", skeleton=BLOCK + QUANTIZED.replace("[2, 2]", "[1, 2]"), count=1),
        Example(title="the last block is partial", count=0,
                skeleton=BLOCK + QUANTIZED.replace("[256, 256]", "[200, 130]")),
    ),
)  # fmt: skip
