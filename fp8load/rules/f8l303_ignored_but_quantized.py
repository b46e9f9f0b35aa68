"""F8L303: the ignore list covers a module that is stored quantized."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule, found
from fp8load.rules.samples import LISTED, NVFP4, NVFP4_GATE_UP, QUANTIZED

RULE = Rule(
    code="F8L303",
    name="ignored-but-quantized",
    level="headers",
    severity=Severity.ERROR,
    what="No module that the ignore list covers is stored in FP8.",
    why="An engine builds a 16-bit layer for it and casts the codes: the layer is wrong by its scale.",
    fix="Remove the entry from the ignore list.",
    check=found("F8L303"),
    examples=(
        Example(title="down_proj is listed and quantized", count=1,
                skeleton=LISTED.replace("lm_head", "down_proj") + QUANTIZED),
        Example(title="a packed one", count=1,
                skeleton=NVFP4.replace('"ignore": []', '"ignore": ["*.gate_proj"]') + NVFP4_GATE_UP),
        Example(title="only the head is listed", skeleton=LISTED + QUANTIZED, count=0),
    ),
)  # fmt: skip
