"""F8L209: experts are stored in a layout that an engine does not know."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule
from fp8load.rules.samples import BLOCK
from fp8load.rules.targets import all_engines

CONFIG = (
    'config {"model_type": "qwen3_moe", "num_hidden_layers": 1, "hidden_size": 256, "moe_intermediate_size": 128, '
    '"num_experts": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 128, "vocab_size": 1024}\n'
)
AT = "model.layers.0.mlp.experts"
WEIGHTS = f"""\
{AT}.{{0..1}}.{{gate,up}}_proj.weight  F8_E4M3  [128, 256]
{AT}.{{0..1}}.down_proj.weight         F8_E4M3  [256, 128]
"""
SINGLE = (
    WEIGHTS
    + f"""\
{AT}.{{0..1}}.{{gate,up}}_proj.weight_scale_inv  F32  [1, 2]
{AT}.{{0..1}}.down_proj.weight_scale_inv         F32  [2, 1]
"""
)
SHARED = (
    WEIGHTS
    + f"""\
{AT}.gate_up_proj_scale_inv  F32  [2, 2, 2]
{AT}.down_proj_scale_inv     F32  [2, 2, 1]
"""
)

RULE = Rule(
    code="F8L209",
    name="expert-layout-unknown-to-target",
    level="headers",
    severity=Severity.ERROR,
    what="Experts are stored one by one or as one tensor for all, as the engine's names for this family expect. "
         "Without --engine, layouts that engines read in different ways are noted.",
    why="A loader that knows the other layout skips the tensors, some without a message: the experts are noise.",
    fix="Store the experts one by one, as the family is published.",
    check=all_engines("F8L209"),
    examples=(
        Example(title="scales of all experts in one tensor, twice", skeleton=CONFIG + BLOCK + SHARED, count=2,
                engine="sglang@0.5.23"),
        Example(title="one by one", skeleton=CONFIG + BLOCK + SINGLE, count=0, engine="sglang@0.5.23"),
        Example(title="in the tool that writes them so", skeleton=CONFIG + BLOCK + SHARED, count=0,
                engine="transformers@5.23"),
    ),
)  # fmt: skip
