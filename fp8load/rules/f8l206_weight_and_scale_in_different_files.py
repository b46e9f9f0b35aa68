"""F8L206: a weight and its scale lie in two files."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED
from fp8load.scheme import Role

APART = QUANTIZED.replace("[2, 2]", "[2, 2]  @ model-2.safetensors")


def check(context: Context) -> Iterator[Problem]:
    """Every tensor beside a quantized weight that lies in another file than the weight."""
    for info in context.checkpoint.lowered.modules.values():
        file = info.tensors[Role.WEIGHT].file
        for role, meta in info.tensors.items():
            if meta.file != file and role is not Role.BIAS:
                yield Problem(
                    code="F8L206", message="a scale lies in another file than its weight", tensor=meta.name,
                    file=meta.file, expected=f"{file}, as the weight", got=meta.file, severity=Severity.INFO,
                    refuses=False, hint="legal; converters that work shard by shard need both files open",
                )  # fmt: skip


RULE = Rule(
    code="F8L206",
    name="weight-and-scale-in-different-files",
    level="headers",
    severity=Severity.INFO,
    what="Notes scales that lie in another shard than their weight.",
    why="It is legal, and every engine reads it. Scripts that convert one shard after the other do not find the scale.",
    fix="Nothing, or save the checkpoint again with shards cut between modules.",
    check=check,
    examples=(
        Example(title="in two shards", skeleton=BLOCK + APART, count=1),
        Example(title="in one", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)
