"""F8L606: a header counts elements of 4 or 6 bits one by one."""

from collections.abc import Iterator

from fp8load.dtypes import DType
from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.f8l205_global_scale_missing import WEIGHT

NARROW = frozenset({DType.F4, DType.F6_E2M3, DType.F6_E3M2})


def check(context: Context) -> Iterator[Problem]:
    """Tensors that are tagged with a dtype of 4 or 6 bits."""
    for meta in context.checkpoint.index.tensors.values():
        if meta.dtype in NARROW:
            packed = [*meta.shape[:-1], -(-meta.shape[-1] * meta.dtype.bits // 8)]
            yield Problem(
                code="F8L606", message=f"the header counts elements of {meta.dtype}, and most readers count bytes",
                tensor=meta.name, file=meta.file, expected=f"U8 {packed}, as tools write it", got=str(meta),
                severity=Severity.INFO, refuses=False, hint="the bytes are the same; torch's shape counts pairs",
            )  # fmt: skip


RULE = Rule(
    code="F8L606",
    name="fp4-shape-semantics",
    level="headers",
    severity=Severity.INFO,
    what="Notes tensors with the tags F4 and F6_*, whose shape counts elements; tools pack the same bytes as U8.",
    why="torch's dtype for FP4 counts pairs. A reader that takes the header's shape for torch's reads twice as much.",
    fix="Nothing, or tag the same bytes as U8 [N, K/2].",
    check=check,
    examples=(
        Example(title="F4 [256, 256]", skeleton=WEIGHT.replace("U8       [256, 128]", "F4 [256, 256]"), count=1),
        Example(title="U8 [256, 128]", skeleton=WEIGHT, count=0),
    ),
)
