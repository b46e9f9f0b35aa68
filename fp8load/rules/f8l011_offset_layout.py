"""F8L011: the tensors of a file do not tile its data, or bytes and shape disagree."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.index.index import TensorMeta
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED

ODD = "model.layers.0.norm.weight F8_E4M3 [3]\n"


def check(context: Context) -> Iterator[Problem]:
    """What reading found, and the first tensor of each file that does not begin at a multiple of its element's size."""
    yield from context.problems("F8L011")
    if context.checkpoint.source.info.kind == "skeleton":  # its offsets are made up
        return
    firsts: dict[str, TensorMeta] = {}
    for meta in context.checkpoint.index.tensors.values():
        if meta.begin * 8 % meta.dtype.bits and meta.file not in firsts:
            firsts[meta.file] = meta
    for meta in firsts.values():
        yield Problem(
            code="F8L011", message="tensors do not begin at a multiple of their elements' size", tensor=meta.name,
            file=meta.file, expected=f"a multiple of {meta.dtype.bits // 8} bytes", got=f"byte {meta.begin:,}",
            severity=Severity.INFO, refuses=False, hint="readers that map the file as an array fail, or copy it",
        )  # fmt: skip


RULE = Rule(
    code="F8L011",
    name="offset-layout",
    level="headers",
    severity=Severity.ERROR,
    what="Tensors follow each other without hole or overlap up to the end of the file, and each is as long as its "
         "dtype and shape say.",
    why="The format asks for it, so the file was damaged or written by a broken tool. Bytes after the last tensor are "
        "a warning: only strict readers refuse them. A tensor that is not aligned is noted.",
    fix="Export the file again; trailing bytes go away when the file is saved once more.",
    check=check,
    examples=(
        Example(title="eight bytes after the last tensor", skeleton=BLOCK + QUANTIZED, count=1,
                files={"model.safetensors": 8}),
        Example(title="a tensor of three bytes before others", count=1,
                skeleton=BLOCK + ODD + "m.norm.weight BF16 [4]\n"),
        Example(title="the tensors fill the file", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)  # fmt: skip
