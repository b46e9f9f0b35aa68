"""F8L305: an engine quantizes other layers than the checkpoint does: it reads the ignore list in its own way."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule
from fp8load.rules.samples import BLOCK, LLAMA_ATTENTION, LLAMA_CONFIG, LLAMA_REST
from fp8load.rules.targets import all_engines

MLP = """\
model.layers.0.mlp.{gate,up}_proj.weight                  BF16  [512, 256]
model.layers.0.mlp.down_proj.weight                       BF16  [256, 512]
"""
REST = LLAMA_ATTENTION + MLP + LLAMA_REST


def listed(key: str, *entries: str) -> str:
    """A model whose MLP is in 16 bits, and a list under a key."""
    names = ", ".join(f'"{entry}"' for entry in entries)
    return LLAMA_CONFIG + BLOCK.replace("[128, 128]}", f'[128, 128], "{key}": [{names}]}}') + REST


FULL = tuple(f"model.layers.0.mlp.{part}_proj" for part in ("gate", "up", "down"))

RULE = Rule(
    code="F8L305",
    name="ignore-needs-renaming-for-target",
    level="headers",
    severity=Severity.ERROR,
    what="With --engine: read as the engine reads it, after its renaming, the ignore list covers the layers that are "
         "stored in 16 bits, and no others. Without, lists that engines read in different ways are noted.",
    why="The engine builds an 8-bit layer for a 16-bit weight: it is cast without a scale, and nothing is said.",
    fix="List every layer by its full name, as it is stored and as the engine calls it.",
    check=all_engines("F8L305"),
    examples=(
        Example(title="a parent's name, where names are compared whole: gate, up and down", count=3,
                skeleton=listed("modules_to_not_convert", "model.layers.0.mlp"), engine="vllm@0.33"),
        Example(title="full names", skeleton=listed("modules_to_not_convert", *FULL), count=0, engine="vllm@0.33"),
        Example(title="a parent's name, where it covers what is below", count=0,
                skeleton=listed("modules_to_not_convert", "model.layers.0.mlp"), engine="sglang@0.5.23"),
        Example(title="a key that the version does not read", count=3,
                skeleton=listed("modules_to_not_convert", *FULL), engine="sglang@0.5.4"),
        Example(title="the key that it reads", skeleton=listed("ignored_layers", *FULL), count=0,
                engine="sglang@0.5.4"),
        Example(title="two of the three parts of a fused layer", count=2,
                skeleton=listed("modules_to_not_convert", "model.layers.0.mlp.up_proj", "gate_proj",
                                "model.layers.0.mlp.down_proj"), engine="vllm@0.33"),
    ),
)  # fmt: skip
