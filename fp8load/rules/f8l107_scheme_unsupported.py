"""F8L107: the configuration asks for something that this version, or a named engine, does not know."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule, found
from fp8load.rules.samples import BLOCK, QUANTIZED
from fp8load.rules.targets import both, engines

FBGEMM = 'config {"quantization_config": {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}}\n'
CHANNELS = "m.down_proj.weight F8_E4M3 [256, 256]\nm.down_proj.weight_scale F32 [256, 1]\n"

RULE = Rule(
    code="F8L107",
    name="scheme-unsupported",
    level="headers",
    severity=Severity.ERROR,
    what="Every value of the quantization configuration is one that fp8load knows. With --engine: method, algorithm "
    "and kinds of layers are some that this engine has code for.",
    why="Guessing at an unknown value could mean a wrong dequantization, so nothing is loaded; engines stop, or read "
    "the weights as if they were not quantized.",
    fix="Check the key's spelling; if it is right, say so in an issue. `fp8load inspect --skeleton` still works.",
    check=both(found("F8L107"), engines("F8L107")),
    examples=(
        Example(title="an activation scheme that does not exist", count=1,
                skeleton=BLOCK.replace("dynamic", "sometimes") + QUANTIZED),
        Example(title="a known one", skeleton=BLOCK + QUANTIZED, count=0),
        Example(title="a method that the engine dropped", skeleton=FBGEMM + CHANNELS, count=1, engine="sglang@0.5.23"),
        Example(title="and its older version has", skeleton=FBGEMM + CHANNELS, count=0, engine="sglang@0.5.4"),
    ),
)  # fmt: skip
