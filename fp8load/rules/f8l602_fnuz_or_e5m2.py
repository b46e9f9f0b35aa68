"""F8L602: 8-bit weights in another format than E4M3."""

from collections.abc import Iterator

from fp8load.dtypes import DType
from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED
from fp8load.rules.targets import both, engines
from fp8load.scheme import Role

E5M2 = BLOCK.replace('"quant_method"', '"fmt": "e5m2", "quant_method"') + QUANTIZED.replace("F8_E4M3", "F8_E5M2")


def check(context: Context) -> Iterator[Problem]:
    """A note for each weight that is not E4M3."""
    for held in context.checkpoint.stored.held:
        dtype = held.scheme.weight.dtype
        if not dtype.is_fp8 or dtype is DType.F8_E4M3:
            continue
        for info in held.modules:
            tensor, file = context.checkpoint.stored.stored_tensor(info, Role.WEIGHT)
            yield Problem(
                code="F8L602", message=f"weights are stored as {dtype}", tensor=tensor, module=info.name, file=file,
                expected=DType.F8_E4M3.value, got=dtype.value, severity=Severity.INFO, refuses=False,
                hint="fp8load reads it; of engines few do, and kernels on NVIDIA's GPUs want E4M3 weights",
            )  # fmt: skip


RULE = Rule(
    code="F8L602",
    name="fnuz-or-e5m2",
    level="headers",
    severity=Severity.ERROR,
    what="Notes weights in E5M2 and in AMD's fnuz formats. With --engine: an error where the engine keeps weights in a "
         "format that cannot hold them.",
    why="Engines copy the numbers into an E4M3 parameter: what is larger than 448 saturates, and nothing is said.",
    fix="Quantize again to E4M3.",
    check=both(check, engines("F8L602")),
    examples=(
        Example(title="E5M2", skeleton=E5M2, count=1),
        Example(title="E5M2 in vLLM", skeleton=E5M2, count=1, engine="vllm@0.33"),
        Example(title="E4M3", skeleton=BLOCK + QUANTIZED, count=0),
        Example(title="E4M3 in vLLM", skeleton=BLOCK + QUANTIZED, count=0, engine="vllm@0.33"),
    ),
)  # fmt: skip
