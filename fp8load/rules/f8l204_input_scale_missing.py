"""F8L204: activations are static and an input scale is missing."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule, found
from fp8load.rules.samples import STATIC, TENSOR_WISE

LOST = TENSOR_WISE.replace("{0..1}.self_attn.{q,k,v}_proj.input_scale", "{0..1}.self_attn.{q,k}_proj.input_scale")

RULE = Rule(
    code="F8L204",
    name="input-scale-missing",
    level="headers",
    severity=Severity.ERROR,
    what="Under static activations every quantized module has its input scale.",
    why="A module that calibration never reached has none; engines then read 0 or 1, and clip or overflow.",
    fix="Calibrate with samples that reach the module, or export with dynamic activations.",
    check=found("F8L204"),
    examples=(
        Example(title="v_proj has none, in two layers", skeleton=STATIC + LOST, count=2),
        Example(title="all have one", skeleton=STATIC + TENSOR_WISE, count=0),
    ),
)
