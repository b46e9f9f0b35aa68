"""F8L102: the configuration declares quantization and no weight that it claims is quantized."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.claims import empty_claims
from fp8load.rules.samples import BLOCK, QUANTIZED


def check(context: Context) -> Iterator[Problem]:
    """Every linear layer that an entry of the configuration claims in vain."""
    place = context.checkpoint.format.place
    for by, weights in empty_claims(context.checkpoint).items():
        entry = place if by == place else f"{by} of {place}"
        for weight in weights:
            yield Problem(
                code="F8L102", message=f"{entry} declares quantization and none of its layers is quantized",
                tensor=weight.name, file=weight.file, expected="a quantized weight with a scale", got=str(weight),
                refuses=False, hint="remove the quantization_config, or the weights of another export were uploaded",
            )  # fmt: skip


RULE = Rule(
    code="F8L102",
    name="config-without-quantized-tensors",
    level="headers",
    severity=Severity.ERROR,
    what="Of the layers that the configuration claims (each group by itself), at least one is quantized.",
    why="An engine makes FP8 layers for what is stored in BF16; their scales stay uninitialised.",
    fix="Remove the quantization_config from config.json, or upload the quantized weights.",
    check=check,
    examples=(
        Example(title="every weight is BF16", count=2,
                skeleton=BLOCK + "model.layers.{0..1}.mlp.down_proj.weight  BF16  [256, 256]\n"),
        Example(title="one weight is quantized", count=0,
                skeleton=BLOCK + QUANTIZED + "model.layers.1.mlp.down_proj.weight  BF16  [256, 256]\n"),
    ),
)  # fmt: skip
