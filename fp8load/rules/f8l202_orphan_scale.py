"""F8L202: a scale has no weight, or its weight is not quantized."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED

NOWHERE = "no such tensor"
"""What lowering got instead of the weight, where it is gone."""


def check(context: Context) -> Iterator[Problem]:
    """Orphans, which lowering found; and the weights that they lack, where no family's check names them."""
    named = {problem.tensor for problem in context.problems("F8L109")}
    absent: dict[str, Problem] = {}
    for problem in context.problems("F8L202"):
        yield problem
        module = problem.module
        weight = context.checkpoint.lowered.weight(module)
        stacked = {module, f"{module}_blocks"}  # where one tensor would hold all experts
        if problem.got == NOWHERE and not named.intersection({weight, *stacked}):
            absent[weight] = problem
    for weight, orphan in absent.items():
        yield Problem(code="F8L202", message="a weight is missing and its scales are there", tensor=weight,
                      file=orphan.file, expected="a quantized weight", got=f"none; {orphan.tensor} is stored",
                      hint=orphan.hint)  # fmt: skip


RULE = Rule(
    code="F8L202",
    name="orphan-scale",
    level="headers",
    severity=Severity.ERROR,
    what="Every scale stands beside a quantized weight.",
    why="A scale without its weight is what is left of a weight that was lost or replaced.",
    fix="Put the quantized weight back, or drop the scale. A leftover beside an ignored module is a warning.",
    check=check,
    examples=(
        Example(title="the weight is BF16", skeleton=BLOCK + QUANTIZED.replace("F8_E4M3", "BF16   "), count=1),
        Example(title="the weight is quantized", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)
