"""F8L203: a module has two tensors for one role, under two names."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule, found
from fp8load.rules.samples import BLOCK, QUANTIZED

RULE = Rule(
    code="F8L203",
    name="scale-name-dialect",
    level="headers",
    severity=Severity.ERROR,
    what="A module has one scale for its weight, under one of the names that its format uses.",
    why="Of weight_scale and weight_scale_inv each reader knows one; which of two numbers is meant cannot be told.",
    fix="Remove the one that is stale.",
    check=found("F8L203"),
    examples=(
        Example(title="both names", count=1,
                skeleton=BLOCK + QUANTIZED + "model.layers.0.mlp.down_proj.weight_scale  F32  [2, 2]\n"),
        Example(title="one name", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)  # fmt: skip
