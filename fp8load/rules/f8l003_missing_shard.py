"""F8L003: index.json needs a file that is not here, or cannot be used itself."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule, found
from fp8load.rules.samples import BLOCK, QUANTIZED

TWO_SHARDS = BLOCK + QUANTIZED + "model.norm.weight  BF16  [256]  @ model-00002.safetensors\n"
NUMBERED = BLOCK + "".join(
    f"model.layers.{layer}.norm.weight BF16 [256] @ model-0000{layer}-of-00003.safetensors\n" for layer in (1, 2, 3)
)
WITHOUT = {"model-00002-of-00003.safetensors": None, "model.safetensors.index.json": None}

RULE = Rule(
    code="F8L003",
    name="missing-shard",
    level="headers",
    severity=Severity.ERROR,
    what="Every file that model.safetensors.index.json names is here, and the index is a map of tensors to files. "
         "Without an index: of files that are numbered 1 of 4, 2 of 4, all are here.",
    why="Servers start without a shard, and answer from uninitialised memory: their completeness check is off for "
        "quantized models.",
    fix="Fetch the missing file. If the repository does not have it, index and files come from different exports.",
    check=found("F8L003"),
    examples=(
        Example(title="one of two shards is missing", skeleton=TWO_SHARDS, count=1,
                files={"model-00002.safetensors": None}),
        Example(title="the second of three, and no index", skeleton=NUMBERED, count=1, files=WITHOUT),
        Example(title="both are here", skeleton=TWO_SHARDS, count=0),
    ),
)  # fmt: skip
