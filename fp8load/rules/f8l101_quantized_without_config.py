"""F8L101: weights are FP8 and no configuration says so."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule, found
from fp8load.rules.samples import BLOCK, QUANTIZED

RULE = Rule(
    code="F8L101",
    name="quantized-without-config",
    level="headers",
    severity=Severity.ERROR,
    what="Where a weight is FP8, config.json or hf_quant_config.json says how it is quantized.",
    why="Without a configuration readers cast the raw codes to BF16: every weight is wrong by its scale.",
    fix="Put the quantization_config of the export back into config.json.",
    check=found("F8L101"),
    examples=(
        Example(title="no quantization_config", skeleton=QUANTIZED, count=1),
        Example(title="with one", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)
