"""F8L921: the output head is stored although it is tied, or it is quantized."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.config import flag
from fp8load.rules.samples import BLOCK, LLAMA, QUANTIZED
from fp8load.scheme import Role

HEAD = "lm_head"
TIED = LLAMA.replace('"num_hidden_layers"', '"tie_word_embeddings": true, "num_hidden_layers"')


def check(context: Context) -> Iterator[Problem]:
    """Modules called lm_head, at the root or inside a multimodal model."""
    checkpoint = context.checkpoint
    tied = flag(checkpoint.index.config, "tie_word_embeddings")
    for name, info in checkpoint.lowered.modules.items():
        if name.rpartition(".")[2] != HEAD:
            continue
        weight = info.tensors[Role.WEIGHT]
        if tied:
            yield Problem(
                code="F8L921", message="the head is tied to the embedding, and stored", tensor=weight.name,
                file=weight.file, expected="no head, by tie_word_embeddings: true", got=str(weight), refuses=False,
                severity=Severity.INFO, hint="most engines skip it; some fail on a tensor that they have no slot for",
            )  # fmt: skip
        if not weight.dtype.is_wide_float:
            yield Problem(
                code="F8L921", message="the head is quantized", tensor=weight.name, file=weight.file,
                expected="BF16, as engines build it unless told otherwise", got=str(weight), refuses=False,
                severity=Severity.INFO, hint="engines that keep the head in 16 bits have no slot for its scale",
            )  # fmt: skip


RULE = Rule(
    code="F8L921",
    name="head-tie",
    level="headers",
    severity=Severity.INFO,
    what="Notes an lm_head that is stored although tie_word_embeddings is true, and one that is quantized.",
    why="Both are legal. Engines differ in whether they skip a tied head, and in whether they can quantize one.",
    fix="Drop the tied head, or set tie_word_embeddings to false; dequantize the head for engines that keep it plain.",
    check=check,
    examples=(
        Example(title="tied, and stored", skeleton=TIED, count=1),
        Example(title="quantized", skeleton=BLOCK + QUANTIZED.replace("model.layers.0.mlp.down_proj", "lm_head"),
                count=1),
        Example(title="of its own, in BF16", skeleton=LLAMA, count=0),
        Example(title="tied, and not stored", count=0,
                skeleton=TIED.replace("{model.embed_tokens,lm_head}", "model.embed_tokens")),
    ),
)  # fmt: skip
