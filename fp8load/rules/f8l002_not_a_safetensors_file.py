"""F8L002: a file is called .safetensors and is something else."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule, found
from fp8load.rules.samples import BLOCK, QUANTIZED

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0a1b2c\nsize 4976698672\n"

RULE = Rule(
    code="F8L002",
    name="not-a-safetensors-file",
    level="headers",
    severity=Severity.ERROR,
    what="Each .safetensors file begins with a header: a length below 100 MB, then a JSON object.",
    why="A clone without git-lfs leaves text pointers, a failed download an HTML page, under the name of the weights.",
    fix="Run `git lfs pull`, or download the file with `hf download`.",
    check=found("F8L002"),
    examples=(
        Example(title="a git-LFS pointer", skeleton=BLOCK + QUANTIZED, count=1, files={"model.safetensors": POINTER}),
        Example(title="weights", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)
