"""F8L307: the ignore list names fused layers or single experts, and an engine looks up others."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule
from fp8load.rules.f8l209_expert_layout_unknown_to_target import AT, CONFIG, SINGLE
from fp8load.rules.f8l305_ignore_needs_renaming_for_target import listed
from fp8load.rules.samples import LISTED
from fp8load.rules.targets import all_engines

FUSED = listed("modules_to_not_convert", "model.layers.0.mlp.gate_up_proj", "model.layers.0.mlp.down_proj")
WEIGHTS = SINGLE.splitlines()[:2]
PLAIN = "".join(f"{line}\n" for line in WEIGHTS).replace("{0..1}", "1").replace("F8_E4M3", "BF16")
ONE = SINGLE.replace("{0..1}", "0") + PLAIN


RULE = Rule(
    code="F8L307",
    name="ignore-granularity",
    level="headers",
    severity=Severity.ERROR,
    what="With --engine: the entries of the ignore list name what the engine looks up, where it fuses layers or builds "
         "one module for all experts. Without, lists that engines read in different ways are noted.",
    why="An entry for qkv_proj is not found by an engine that looks up q_proj; one for a single expert switches all "
        "experts off.",
    fix="List the parts of fused layers, and the module of all experts.",
    check=all_engines("F8L307"),
    examples=(
        Example(title="a fused name, taken apart before it is looked up: gate and up", skeleton=FUSED, count=2,
                engine="vllm@0.11"),
        Example(title="looked up as it is", skeleton=FUSED, count=0, engine="vllm@0.33"),
        Example(title="one expert of two: the other's three layers are taken to be in 16 bits", count=3,
                skeleton=CONFIG + LISTED.replace("lm_head", f"{AT}.1") + ONE, engine="vllm@0.33"),
        Example(title="no expert", skeleton=CONFIG + LISTED + SINGLE, count=0, engine="vllm@0.33"),
    ),
)  # fmt: skip
