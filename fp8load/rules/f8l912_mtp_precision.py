"""F8L912: a layer for multi-token prediction is not in the precision that engines build it in."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fp8load.errors import Problem, Severity
from fp8load.formats.base import Claimed
from fp8load.formats.match import is_embedding, is_router
from fp8load.index.index import TensorMeta
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.mtp import MtpNames
from fp8load.rules.samples import BLOCK, LISTED, QUANTIZED
from fp8load.scheme import Role

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint

PLAIN = frozenset({"eh_proj", "fc", "head"})
"""Last components of the layers that engines build in 16 bits: the two inputs' projection, and the head."""

FC = "mtp.fc.weight  BF16  [256, 512]\n"
QUANTIZED_FC = QUANTIZED.replace("model.layers.0.mlp.down_proj", "mtp.fc")


def check(context: Context) -> Iterator[Problem]:
    """Matrices in 16 bits that the configuration claims (F8L302 aside), and quantized ones that engines have plain."""
    checkpoint = context.checkpoint
    layer_of = MtpNames(checkpoint.index.config).layer
    said = {problem.tensor for problem in context.problems("F8L302")}
    for name, info in checkpoint.lowered.modules.items():
        weight = info.tensors[Role.WEIGHT]
        if len(weight.shape) != 2 or is_embedding(name) or is_router(name) or layer_of(name) is None:
            continue
        if info.scheme is not None and name.rpartition(".")[2] in PLAIN:
            message, expected = "a quantized matrix that engines build in 16 bits, for multi-token prediction", "BF16"
            hint = "engines that have no slot for its scale fail, or drop it: dequantize the matrix"
        elif (
            weight.dtype.is_wide_float
            and weight.name not in said
            and isinstance(checkpoint.format.claim(name), Claimed)
        ):
            message = "a layer for multi-token prediction is stored in 16 bits, and the configuration claims it"
            expected, hint = "an entry of the ignore list", "list it, also in the spelling of the draft model"
        else:
            continue
        yield Problem(code="F8L912", message=message, tensor=weight.name, file=weight.file, expected=expected,
                      got=str(weight), severity=Severity.INFO, refuses=False, hint=hint)  # fmt: skip


def _is_claimed(checkpoint: "Checkpoint", name: str, weight: TensorMeta) -> bool:
    """Whether a weight is in 16 bits and the configuration says that it is quantized."""
    return weight.dtype.is_wide_float and isinstance(checkpoint.format.claim(name), Claimed)


RULE = Rule(
    code="F8L912",
    name="mtp-precision",
    level="headers",
    severity=Severity.INFO,
    what="Matrices of layers for multi-token prediction that are in 16 bits are in the ignore list; their head and the "
         "projection of their inputs are not quantized.",
    why="The draft model is built apart from the main one, by the same configuration and under other names: its "
        "layers come out in another precision than they are stored in, and no drafted token is accepted.",
    fix="List the layers in the ignore list, or dequantize those that engines build in 16 bits.",
    check=check,
    examples=(
        Example(title="mtp.fc in 16 bits, and claimed", skeleton=BLOCK + QUANTIZED + FC, count=1),
        Example(title="mtp.fc quantized", skeleton=BLOCK + QUANTIZED_FC, count=1),
        Example(title="mtp.fc in 16 bits, and listed", count=0,
                skeleton=LISTED.replace("lm_head", "mtp.fc") + QUANTIZED + FC),
    ),
)  # fmt: skip
