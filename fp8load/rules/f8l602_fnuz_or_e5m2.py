"""F8L602: weights are stored in an 8-bit float that few readers know."""

from collections.abc import Iterator

from fp8load.dtypes import DType
from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED
from fp8load.rules.targets import both, engines

HINTS = {
    DType.F8_E4M3FNUZ: "AMD's MI300 computes in it; read as F8_E4M3, every number is twice too large",
    DType.F8_E5M2FNUZ: "AMD's MI300 computes in it; read as F8_E5M2, every number is twice too large",
    DType.F8_E5M2: "most engines have kernels for E4M3 only",
}


def check(context: Context) -> Iterator[Problem]:
    """Tensors in E5M2 or in a fnuz dtype."""
    for meta in context.checkpoint.index.tensors.values():
        if meta.dtype in HINTS:
            yield Problem(
                code="F8L602", message=f"a tensor is stored in {meta.dtype}", tensor=meta.name, file=meta.file,
                expected="F8_E4M3, which every reader of FP8 knows", got=str(meta), severity=Severity.INFO,
                refuses=False, hint=HINTS[meta.dtype],
            )  # fmt: skip


E5M2 = BLOCK.replace('"quant_method"', '"fmt": "e5m2", "quant_method"') + QUANTIZED.replace("F8_E4M3", "F8_E5M2")

RULE = Rule(
    code="F8L602",
    name="fnuz-or-e5m2",
    level="headers",
    severity=Severity.ERROR,
    what="Notes tensors in F8_E5M2, F8_E4M3FNUZ or F8_E5M2FNUZ. With --engine: an error where the engine keeps weights "
         "in a format that cannot hold them.",
    why="The fnuz floats have a bias that is higher by one, and 0x80 is their NaN: a reader that takes them for the "
        "others is wrong by a factor of two.",
    fix="Convert the weights to F8_E4M3 for readers that know no other. The scales stay where numbers are converted; "
        "where bytes of fnuz are kept as codes, scales halve.",
    check=both(check, engines("F8L602")),
    examples=(
        Example(title="fnuz", skeleton=BLOCK + QUANTIZED.replace("F8_E4M3", "F8_E4M3FNUZ"), count=1),
        Example(title="E5M2 in vLLM", skeleton=E5M2, count=1, engine="vllm@0.33"),
        Example(title="E4M3 in vLLM", skeleton=BLOCK + QUANTIZED, count=0, engine="vllm@0.33"),
        Example(title="E4M3", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)  # fmt: skip
