"""F8L912: a layer for multi-token prediction is not in the precision that engines build it in."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fp8load.errors import Problem, Severity
from fp8load.formats.base import Claimed
from fp8load.formats.lowered import ModuleInfo
from fp8load.formats.match import is_embedding, is_router
from fp8load.index.index import TensorMeta
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.mtp import MtpNames, within_layer
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
    drafts: list[ModuleInfo] = []
    usual: set[str] = set()  # what other layers have in 16 bits, and nobody lists, is no matter of these
    for name, info in checkpoint.lowered.modules.items():
        if layer_of(name) is not None:
            drafts.append(info)
        elif _is_claimed(checkpoint, info):
            usual.add(within_layer(name))
    for info in drafts:
        weight, name = info.tensors[Role.WEIGHT], info.name
        if len(weight.shape) != 2 or is_embedding(name) or is_router(name) or weight.name in said:
            continue
        if info.scheme is not None and name.rpartition(".")[2] in PLAIN:
            yield _problem(
                weight, "a quantized matrix for multi-token prediction that engines build in 16 bits", "BF16",
                "engines that have no slot for its scale fail, or drop it: dequantize the matrix",
            )  # fmt: skip
        elif within_layer(name) not in usual and _is_claimed(checkpoint, info):
            yield _problem(
                weight, "a matrix for multi-token prediction is in 16 bits, and the configuration claims it",
                "an entry of the ignore list", "list it, also in the spelling of the draft model",
            )  # fmt: skip


def _is_claimed(checkpoint: "Checkpoint", info: ModuleInfo) -> bool:
    """Whether a weight is in 16 bits and the configuration says that it is quantized."""
    is_wide = info.tensors[Role.WEIGHT].dtype.is_wide_float
    return is_wide and isinstance(checkpoint.format.claim(info.name), Claimed)


def _problem(weight: TensorMeta, message: str, expected: str, hint: str) -> Problem:
    return Problem(code="F8L912", message=message, tensor=weight.name, file=weight.file, expected=expected,
                   got=str(weight), severity=Severity.INFO, refuses=False, hint=hint)  # fmt: skip


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
