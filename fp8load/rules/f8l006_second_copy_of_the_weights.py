"""F8L006: a second copy of the weights lies beside the first."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule, found
from fp8load.rules.samples import BLOCK, QUANTIZED

COPY = "layers.0.feed_forward.w2.weight  BF16  [256, 256]  @ consolidated.safetensors\n"
INDEX = {"model.safetensors.index.json": None}

RULE = Rule(
    code="F8L006",
    name="second-copy-of-the-weights",
    level="headers",
    severity=Severity.WARNING,
    what="No further .safetensors files hold more than half of the parameters again.",
    why="Loaders that read *.safetensors merge both copies; which of two equal names wins depends on the order.",
    fix="Delete one copy, or exclude it when downloading: `hf download --exclude 'consolidated*'`.",
    check=found("F8L006"),
    examples=(
        Example(title="consolidated.safetensors beside model.safetensors", skeleton=BLOCK + QUANTIZED + COPY, count=1,
                files=INDEX),
        Example(title="one copy", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)  # fmt: skip
