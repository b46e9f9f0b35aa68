"""F8L601: scales in 16 bits are noted; one scale in another dtype than its siblings is an error."""

from collections.abc import Iterator

from fp8load.dtypes import DType
from fp8load.errors import Problem, Severity
from fp8load.inspection import scale_names
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED
from fp8load.rules.targets import both, engines

SIBLINGS = """\
model.layers.{0..3}.mlp.down_proj.weight             F8_E4M3  [256, 256]
model.layers.{0..2}.mlp.down_proj.weight_scale_inv   F32      [2, 2]
model.layers.3.mlp.down_proj.weight_scale_inv        BF16     [2, 2]
"""


def check(context: Context) -> Iterator[Problem]:
    """Odd ones out, which lowering found, and the 16-bit scales among the others."""
    odd = list(context.problems("F8L601"))
    yield from odd
    said = {problem.tensor for problem in odd}
    tensors = context.checkpoint.tensors
    for name in dict.fromkeys(scale_names(context.checkpoint)):
        meta = tensors[name]
        if meta.dtype in (DType.BF16, DType.F16) and name not in said:
            yield Problem(
                code="F8L601", message=f"scales are stored in {meta.dtype}", tensor=name, file=meta.file,
                expected="F32", got=meta.dtype.value, severity=Severity.INFO, refuses=False,
                hint="widening them is exact; readers that insist on F32 refuse them",
            )  # fmt: skip


RULE = Rule(
    code="F8L601",
    name="scale-dtype",
    level="headers",
    severity=Severity.ERROR,
    what="Scales of one kind have one dtype in every layer. BF16 and F16 throughout are only noted.",
    why="A scale that was relabelled keeps its size and loads without an error anywhere, as other numbers.",
    fix="Compare the scale with the same one of another layer, and export again.",
    check=both(check, engines("F8L601")),
    examples=(
        Example(title="one of four scales is BF16", skeleton=BLOCK + SIBLINGS, count=1),
        Example(title="F32", skeleton=BLOCK + QUANTIZED, count=0),
        Example(title="BF16", skeleton=BLOCK + QUANTIZED.replace("F32 ", "BF16"), count=1),
        Example(
            title="F64, in an engine that casts to no fewer bits",
            skeleton=BLOCK + QUANTIZED.replace("F32", "F64"),
            count=1,
            engine="sglang@0.5.23",
        ),
        Example(
            title="F64, in one that casts",
            skeleton=BLOCK + QUANTIZED.replace("F32", "F64"),
            count=0,
            engine="vllm@0.33",
        ),
    ),
)
