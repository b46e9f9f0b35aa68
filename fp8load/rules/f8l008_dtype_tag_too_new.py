"""F8L008: a dtype that no reader knows, or that only new readers know."""

from collections.abc import Iterator

from fp8load.dtypes import DType
from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule

NEW = frozenset({DType.F8_E8M0, DType.F4, DType.F6_E2M3, DType.F6_E3M2, DType.F8_E4M3FNUZ, DType.F8_E5M2FNUZ})
"""Tags that safetensors got after F8_E4M3 and F8_E5M2 (0.5 to 0.7)."""


def check(context: Context) -> Iterator[Problem]:
    """Unknown tags, which reading found, and tags that older readers refuse."""
    yield from context.problems("F8L008")
    for meta in context.checkpoint.index.tensors.values():
        if meta.dtype in NEW:
            yield Problem(code="F8L008", message=f"the dtype {meta.dtype} is unknown to older readers", file=meta.file,
                          tensor=meta.name, expected="safetensors 0.7 or newer", got=str(meta), refuses=False,
                          severity=Severity.INFO,
                          hint="update safetensors where it is read, or store the bytes as U8")  # fmt: skip


RULE = Rule(
    code="F8L008",
    name="dtype-tag-too-new",
    level="headers",
    severity=Severity.ERROR,
    what="Every dtype tag of a header is one of safetensors 0.8. Tags younger than F8_E4M3 are noted.",
    why="A reader that does not know a tag fails with a KeyError, or counts packed elements differently.",
    fix="Update safetensors; where a reader cannot be updated, store the bytes as U8.",
    check=check,
    examples=(
        Example(title="E8M0 scales", count=1,
                skeleton="m.down_proj.weight F8_E4M3 [64, 64]\nm.down_proj.weight_scale F8_E8M0 [64, 2]\n"),
        Example(title="F32 scales", count=0,
                skeleton="m.down_proj.weight F8_E4M3 [64, 64]\nm.down_proj.weight_scale F32 [1]\n"),
    ),
)  # fmt: skip
