"""F8L106: the declared activation scheme and the stored input scales disagree."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.families import INPUT_ROLES
from fp8load.rules.samples import BLOCK, QUANTIZED, STATIC, TENSOR_WISE


def check(context: Context) -> Iterator[Problem]:
    """What parsing and lowering found; and each input scale that is missing (F8L204) where none at all is stored: then
    it is the configuration that is wrong."""
    yield from context.problems("F8L106")
    checkpoint = context.checkpoint
    modules = checkpoint.lowered.modules
    if any(role in info.tensors for info in modules.values() for role in INPUT_ROLES):
        return
    for problem in context.problems("F8L204"):
        info = modules.get(problem.tensor.rpartition(".")[0])
        if info is not None and info.scheme is not None and info.scheme.input_static:
            yield Problem(
                code="F8L106", message="activations are declared static and no input scale is stored",
                tensor=problem.tensor, file=checkpoint.format.place, expected=problem.expected, got=problem.got,
                refuses=False, hint="declare them dynamic if the export was made so, or export again with calibration",
            )  # fmt: skip


UNCALIBRATED = "".join(line for line in TENSOR_WISE.splitlines(keepends=True) if "input_scale" not in line)

RULE = Rule(
    code="F8L106",
    name="activation-scheme-vs-tensors",
    level="headers",
    severity=Severity.ERROR,
    what="activation_scheme is given, is not static beside block scales, and not where no input scale is stored. "
         "A stray input scale under dynamic activations is only noted.",
    why="With the wrong scheme an engine quantizes activations with a number that was never stored.",
    fix="Set activation_scheme to what the export used; drop input scales that nothing reads.",
    check=check,
    examples=(
        Example(title="an input scale, and dynamic activations", count=1,
                skeleton=BLOCK + QUANTIZED + "model.layers.0.mlp.down_proj.input_scale  F32  [1]\n"),
        Example(title="static activations, and no input scale in six layers", count=6,
                skeleton=STATIC + UNCALIBRATED),
        Example(title="static activations", skeleton=STATIC + TENSOR_WISE, count=0),
        Example(title="no input scale", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)  # fmt: skip
