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
    wide, widest = dequantized(checkpoint), dequantized(checkpoint, DType.F32)
    stored = ", ".join(f"{size(nbytes)} {dtype}" for dtype, nbytes in by_dtype.most_common())
    for ranks in context.tp or (1,):
        yield Problem(
            code="F8T002", message=f"memory at tp={ranks}: {size(sum(by_dtype.values()) // ranks)} of weights a rank, "
            f"{size(wide // ranks)} dequantized to BF16, {size(widest // ranks)} to F32", severity=Severity.INFO,
            expected=f"{size(wide)} on each rank, where a loader dequantizes to BF16 before it splits, "
            f"{size(widest)} to F32", got=stored, file=checkpoint.format.place,
            hint="an even share, without cache and activations; `fp8load plan --tp` is exact", refuses=False,
        )  # fmt: skip


def dequantized(checkpoint: "Checkpoint", dtype: DType = DType.BF16) -> int:
    """Bytes of the checkpoint with every quantized weight in this dtype and no scales."""
    held = [info for group in checkpoint.stored.held for info in group.modules]
    quantized = sum(meta.nbytes for info in held for role, meta in info.tensors.items() if role is not Role.BIAS)
    rest = sum(meta.nbytes for meta in checkpoint.tensors.values()) - quantized
    return rest + sum(info.tensors[Role.WEIGHT].num_elements * dtype.bits // 8 for info in held)


RULE = Rule(
    code="F8T002",
    name="memory-plan",
    level="headers",
    severity=Severity.INFO,
    what="With --tp, --engine or --arch: the memory that the weights of a rank take, as stored, and dequantized to "
    "BF16 and to F32.",
    why="Loaders that dequantize before they split need the whole model on every rank, in BF16 twice as large, "
    "in F32 four times.",
    fix="Nothing to mend; `fp8load plan --tp` says what each rank holds.",
    check=check,
    examples=(
        Example(title="two sizes", skeleton=LLAMA, count=2, tp=(1, 2)),
        Example(title="an engine", skeleton=BLOCK + QUANTIZED, count=1, engine="vllm"),
        Example(title="nothing is asked for", skeleton=LLAMA, count=0),
    ),
)
