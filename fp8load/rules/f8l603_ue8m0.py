"""F8L603: scales are stored as exponents, one byte each."""

from collections.abc import Iterator

from fp8load.dtypes import DType
from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, POWERS, QUANTIZED
from fp8load.rules.targets import both, engines
from fp8load.scheme import PerBlock, Role

BYTES = POWERS + QUANTIZED.replace("F32    ", "U8     ")
TAGGED = POWERS + QUANTIZED.replace("F32    ", "F8_E8M0")


def check(context: Context) -> Iterator[Problem]:
    """A note for each scale of blocks, for which F32 is usual; microscaling formats have no others."""
    stored = context.checkpoint.stored
    for held in stored.held:
        weight = held.scheme.weight
        if weight.scale_dtype is not DType.F8_E8M0 or not isinstance(weight.granularity, PerBlock):
            continue
        for info in held.modules:
            tensor, file = stored.stored_tensor(info, Role.WEIGHT_SCALE)
            yield Problem(
                code="F8L603", message="scales of blocks are stored as exponents", tensor=tensor, module=info.name,
                file=file, expected="F32", got=str(context.checkpoint.index.tensors[tensor]), refuses=False,
                severity=Severity.INFO, hint="fp8load reads them; engines differ, --engine says which do",
            )  # fmt: skip


RULE = Rule(
    code="F8L603",
    name="ue8m0",
    level="headers",
    severity=Severity.WARNING,
    what="Notes scales of blocks that are stored as exponents (U8, or F8_E8M0). With --engine: a warning where the "
         "engine copies them as numbers, for microscaling formats too.",
    why="A byte copied into a float is 120.0 where 2^-7 is meant, and a float copied into a byte is 0 where it is 120. "
        "Shapes fit, so nothing is said.",
    fix="Store block scales as F32 powers of two, and exponents of microscaling formats as U8; both are exact.",
    check=both(check, engines("F8L603")),
    examples=(
        Example(title="bytes", skeleton=BYTES, count=1),
        Example(title="bytes in an engine that copies them as numbers", skeleton=BYTES, count=1, engine="vllm@0.33"),
        Example(title="tagged as exponents, which copies convert", skeleton=TAGGED, count=0, engine="vllm@0.33"),
        Example(title="F32", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)  # fmt: skip
