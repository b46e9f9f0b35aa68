"""F8T002: how much memory a rank needs, as stored and dequantized."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fp8load.dtypes import DType
from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, LLAMA, QUANTIZED
from fp8load.scheme import Role
from fp8load.units import size

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint


def check(context: Context) -> Iterator[Problem]:
    """One note for each size that is asked for, or for one rank where only an engine or a GPU is."""
    if context.tp is None and not context.engines and context.gpu is None:
        return
    checkpoint = context.checkpoint
    if not checkpoint.stored.held:
        return
    by_dtype = Counter[DType]()
    for meta in checkpoint.index.tensors.values():
        by_dtype[meta.dtype] += meta.nbytes
    wide = dequantized(checkpoint)
    stored = ", ".join(f"{size(nbytes)} {dtype}" for dtype, nbytes in by_dtype.most_common())
    for ranks in context.tp or (1,):
        yield Problem(
            code="F8T002", message=f"memory at tp={ranks}: {size(sum(by_dtype.values()) // ranks)} of weights a rank, "
            f"{size(wide // ranks)} dequantized to BF16", file=checkpoint.format.place, severity=Severity.INFO,
            expected=f"{size(wide)} on each rank, where a loader dequantizes before it splits", got=stored,
            hint="an even share, without cache and activations; `fp8load plan --tp` is exact", refuses=False,
        )  # fmt: skip


def dequantized(checkpoint: "Checkpoint") -> int:
    """Bytes of the checkpoint with every quantized weight in BF16 and no scales."""
    held = [info for group in checkpoint.stored.held for info in group.modules]
    quantized = sum(meta.nbytes for info in held for role, meta in info.tensors.items() if role is not Role.BIAS)
    rest = sum(meta.nbytes for meta in checkpoint.tensors.values()) - quantized
    return rest + sum(info.tensors[Role.WEIGHT].num_elements * DType.BF16.bits // 8 for info in held)


RULE = Rule(
    code="F8T002",
    name="memory-plan",
    level="headers",
    severity=Severity.INFO,
    what="With --tp, --engine or --arch: the memory that the weights of a rank take, as stored and dequantized.",
    why="Loaders that dequantize before they split need the whole model in BF16 on every rank.",
    fix="Nothing to mend; `fp8load plan --tp` says what each rank holds.",
    check=check,
    examples=(
        Example(title="two sizes", skeleton=LLAMA, count=2, tp=(1, 2)),
        Example(title="an engine", skeleton=BLOCK + QUANTIZED, count=1, engine="vllm"),
        Example(title="nothing is asked for", skeleton=LLAMA, count=0),
    ),
)
