"""F8L004: index.json promises a tensor that the shard does not hold."""

import json

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule, found
from fp8load.rules.samples import BLOCK, QUANTIZED

INDEX = "model.safetensors.index.json"
NAMES = ("model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.down_proj.weight_scale_inv")


def _index(*names: str) -> bytes:
    return json.dumps({"weight_map": dict.fromkeys(names, "model.safetensors")}).encode()


RULE = Rule(
    code="F8L004",
    name="indexed-tensor-absent",
    level="headers",
    severity=Severity.ERROR,
    what="Every tensor of the index lies in the file that the index gives.",
    why="Readers that trust the index fail late; readers that walk the files never notice what they did not get.",
    fix="If the tensor lies in another shard, correct its entry in weight_map. If it lies nowhere, shard and index "
        "come from different exports: fetch both again, or ask the publisher.",
    check=found("F8L004"),
    examples=(
        Example(title="the index names a tensor too many", skeleton=BLOCK + QUANTIZED, count=1,
                files={INDEX: _index(*NAMES, "model.norm.weight")}),
        Example(title="the index agrees", skeleton=BLOCK + QUANTIZED, count=0, files={INDEX: _index(*NAMES)}),
    ),
)  # fmt: skip
