"""F8L506: a weight is stored transposed."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule, found
from fp8load.rules.samples import LLAMA

RULE = Rule(
    code="F8L506",
    name="transposed",
    level="headers",
    severity=Severity.ERROR,
    what="No weight has the shape [in, out] where the configuration calls for [out, in].",
    why="Kernels that want the transpose store it in place; saved from there, every reader computes nonsense.",
    fix="Save the weight before an engine has prepared it for its kernels.",
    check=found("F8L506"),
    examples=(
        Example(title="embedding and head are [hidden, vocabulary]", count=2,
                skeleton=LLAMA.replace("[1024, 256]", "[256, 1024]")),
        Example(title="[vocabulary, hidden]", skeleton=LLAMA, count=0),
    ),
)  # fmt: skip
