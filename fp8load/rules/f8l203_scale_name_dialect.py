"""F8L203: a module has two tensors for one role, or one under a name that an engine does not read."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule, found
from fp8load.rules.samples import BLOCK, QUANTIZED, STATIC
from fp8load.rules.targets import all_engines, both

NAMED_INV = (
    "m.down_proj.weight F8_E4M3 [256, 256]\nm.down_proj.weight_scale_inv F32 []\nm.down_proj.activation_scale F32 []\n"
)

RULE = Rule(
    code="F8L203",
    name="scale-name-dialect",
    level="headers",
    severity=Severity.ERROR,
    what="A module has one scale for its weight, under one of the names that its format uses. With --engine: under the "
         "one that this engine reads; without, names that engines read in different ways are noted.",
    why="Of weight_scale and weight_scale_inv each reader knows one; which of two numbers is meant cannot be told.",
    fix="Remove the one that is stale; rename the others in the header.",
    check=both(found("F8L203"), all_engines("F8L203")),
    examples=(
        Example(title="both names", count=1,
                skeleton=BLOCK + QUANTIZED + "model.layers.0.mlp.down_proj.weight_scale  F32  [2, 2]\n"),
        Example(title="DeepSeek-V4's name", skeleton=BLOCK + QUANTIZED.replace("weight_scale_inv", "scale"), count=1),
        Example(title="one name", skeleton=BLOCK + QUANTIZED, count=0),
        Example(title="names of transformers, in vLLM: weight and input", skeleton=STATIC + NAMED_INV, count=2,
                engine="vllm@0.33"),
        Example(title="in transformers", skeleton=STATIC + NAMED_INV, count=0, engine="transformers@5.23"),
        Example(title="no engine: a note for each name", skeleton=STATIC + NAMED_INV, count=2),
    ),
)  # fmt: skip
