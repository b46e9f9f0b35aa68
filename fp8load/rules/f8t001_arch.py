"""F8T001: the GPU does not run this, or not as it is stored."""

from collections.abc import Iterator

from fp8load.engines.ask import of_named, problem
from fp8load.engines.machines import multiplies
from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED, STATIC, TENSOR_WISE
from fp8load.rules.targets import target_of

MODELOPT = STATIC.replace('"fp8", "activation_scheme": "static"', '"modelopt", "quant_algo": "FP8"')


def check(context: Context) -> Iterator[Problem]:
    """What the named engines do on the GPU; without one what its tensor cores lack."""
    if context.gpu is None:
        return
    stored = context.checkpoint.stored
    if context.engines:
        yield from of_named("F8T001", context.engines, stored, target_of(context))
        return
    for verdict in multiplies(stored, context.gpu):
        yield problem("F8T001", verdict, verdict.text, verdict.severity)


RULE = Rule(
    code="F8T001",
    name="arch",
    level="headers",
    severity=Severity.ERROR,
    what="With --arch: the GPU multiplies what is stored. With --engine beside it: the engine runs it there, and "
         "without a fallback.",
    why="FP8 tensor cores begin with sm89, those for FP4 with sm100. Below, engines stop, or multiply 16-bit inputs, "
        "which costs speed and changes numbers.",
    fix="Use another GPU or another checkpoint; measure a fallback before you rely on it.",
    check=check,
    examples=(
        Example(title="FP8 on an A100", skeleton=BLOCK + QUANTIZED, count=1, arch="sm80"),
        Example(title="FP8 on a H100", skeleton=BLOCK + QUANTIZED, count=0, arch="sm90"),
        Example(title="E4M3 on a MI300, whose FP8 is fnuz", skeleton=BLOCK + QUANTIZED, count=1, arch="gfx942"),
        Example(title="a fallback", skeleton=BLOCK + QUANTIZED, count=1, arch="sm80", engine="vllm@0.33"),
        Example(title="ModelOpt's, which has none", skeleton=MODELOPT + TENSOR_WISE, count=1, arch="sm80",
                engine="vllm@0.33"),
        Example(title="no GPU is named", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)  # fmt: skip
