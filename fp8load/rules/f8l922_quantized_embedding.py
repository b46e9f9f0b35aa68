"""F8L922: an embedding is quantized."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.formats.match import is_embedding
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED
from fp8load.scheme import Role

EMBEDDING = QUANTIZED.replace("model.layers.0.mlp.down_proj", "model.embed_tokens")


def check(context: Context) -> Iterator[Problem]:
    """Embeddings, by the last component of their name, whose rows are codes that have a scale."""
    for name, info in context.checkpoint.lowered.modules.items():
        weight = info.tensors[Role.WEIGHT]
        if not is_embedding(name) or weight.dtype.is_wide_float or Role.WEIGHT_SCALE not in info.tensors:
            continue
        yield Problem(
            code="F8L922", message="an embedding is quantized", tensor=weight.name, file=weight.file,
            expected="rows in 16 bits", got=str(weight), severity=Severity.INFO, refuses=False,
            hint="engines gather rows of an embedding without a scale: dequantize it",
        )  # fmt: skip


RULE = Rule(
    code="F8L922",
    name="quantized-embedding",
    level="headers",
    severity=Severity.INFO,
    what="Notes embeddings that are stored as codes with a scale.",
    why="A lookup copies rows. Engines whose embedding has no slot for a scale use the codes as numbers.",
    fix="Store the embedding in 16 bits.",
    check=check,
    examples=(
        Example(title="FP8", skeleton=BLOCK + EMBEDDING, count=1),
        Example(title="BF16", skeleton=BLOCK + QUANTIZED + "model.embed_tokens.weight  BF16  [1024, 256]\n", count=0),
    ),
)
