"""F8L106: the declared activation scheme and the stored input scales disagree."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule, found
from fp8load.rules.samples import BLOCK, QUANTIZED

RULE = Rule(
    code="F8L106",
    name="activation-scheme-vs-tensors",
    level="headers",
    severity=Severity.ERROR,
    what="activation_scheme is given, is not static beside block scales, and dynamic where no input scale is stored. "
         "A stray input scale under dynamic activations is only noted.",
    why="With the wrong scheme an engine quantizes activations with a number that was never stored.",
    fix="Set activation_scheme to what the export used; drop input scales that nothing reads.",
    check=found("F8L106"),
    examples=(
        Example(title="an input scale, and dynamic activations", count=1,
                skeleton=BLOCK + QUANTIZED + "model.layers.0.mlp.down_proj.input_scale  F32  [1]\n"),
        Example(title="no input scale", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)  # fmt: skip
