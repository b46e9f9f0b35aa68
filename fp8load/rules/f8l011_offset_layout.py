"""F8L011: the tensors of a file do not tile its data, or bytes and shape disagree."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule, found
from fp8load.rules.samples import BLOCK, QUANTIZED

RULE = Rule(
    code="F8L011",
    name="offset-layout",
    level="headers",
    severity=Severity.ERROR,
    what="Tensors follow each other without hole or overlap up to the end of the file, and each is as long as its "
         "dtype and shape say.",
    why="The format asks for it, so the file was damaged or written by a broken tool. Bytes after the last tensor are "
        "a warning: only strict readers refuse them.",
    fix="Export the file again; trailing bytes go away when the file is saved once more.",
    check=found("F8L011"),
    examples=(
        Example(title="eight bytes after the last tensor", skeleton=BLOCK + QUANTIZED, count=1,
                files={"model.safetensors": 8}),
        Example(title="the tensors fill the file", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)  # fmt: skip
