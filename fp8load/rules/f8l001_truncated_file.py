"""F8L001: a file ends before its tensors do."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule, found
from fp8load.rules.samples import BLOCK, QUANTIZED

RULE = Rule(
    code="F8L001",
    name="truncated-file",
    level="headers",
    severity=Severity.ERROR,
    what="Each file is as long as its header says.",
    why="A download or copy that stopped leaves a file with a good header. Readers that map it crash, or serve zeros.",
    fix="Fetch the file again; `hf download` resumes.",
    check=found("F8L001"),
    examples=(
        Example(title="the last 100 bytes are missing", skeleton=BLOCK + QUANTIZED, count=1,
                files={"model.safetensors": -100}),
        Example(title="the whole file", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)  # fmt: skip
