"""F8L205: an NVFP4 weight has block scales and no scale of the whole tensor."""

from collections.abc import Iterator

from fp8load.dtypes import DType
from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import NVFP4

PACKED = {"weight_packed": "weight_global_scale", "weight": "weight_scale_2"}
"""Suffix of the packed weight -> suffix of the second scale, in compressed-tensors and in ModelOpt."""

NVFP4_WEIGHTS = NVFP4.replace(
    ', "input_activations": {"num_bits": 4, "type": "float", "group_size": 16, "dynamic": false}', ""
)
STACKED = """\
m.experts.down_proj               U8       [4, 256, 128]
m.experts.down_proj_weight_scale  F8_E4M3  [4, 256, 16]
"""
WEIGHT = "m.down_proj.weight_packed        U8       [256, 128]\nm.down_proj.weight_scale         F8_E4M3  [256, 16]\n"


def check(context: Context) -> Iterator[Problem]:
    """Packed weights whose block scales are E4M3: these need a second scale, whatever the configuration is; and what
    lowering found of weights under other names, such as those of all experts."""
    said: set[str] = set()
    for problem in _packed(context):
        said.add(problem.tensor)
        yield problem
    yield from (problem for problem in context.problems("F8L205") if problem.tensor not in said)


def _packed(context: Context) -> Iterator[Problem]:
    tensors = context.checkpoint.index.tensors
    for name, meta in tensors.items():
        base, _, suffix = name.rpartition(".")
        if suffix not in PACKED or meta.dtype not in (DType.U8, DType.F4):
            continue
        blocks = tensors.get(f"{base}.weight_scale")
        if blocks is None or blocks.dtype is not DType.F8_E4M3:
            continue
        if not any(f"{base}.{second}" in tensors for second in PACKED.values()):
            yield Problem(
                code="F8L205", message="a packed FP4 weight has block scales and no global scale",
                tensor=f"{base}.{PACKED[suffix]}", module=base, file=meta.file, got="none",
                expected=f"F32 [1], beside {meta} {name}", hint="export it again: E4M3 block scales mean little alone",
            )  # fmt: skip


RULE = Rule(
    code="F8L205",
    name="global-scale-missing",
    level="headers",
    severity=Severity.ERROR,
    what="A packed FP4 weight with E4M3 block scales has weight_scale_2 or weight_global_scale.",
    why="E4M3 cannot hold the range of the scales; the global scale brings it back. Without it weights are far off.",
    fix="Export the layer again.",
    check=check,
    examples=(
        Example(title="no global scale", skeleton=WEIGHT, count=1),
        Example(title="of four experts in one tensor", skeleton=NVFP4_WEIGHTS + STACKED, count=1),
        Example(title="with it", skeleton=WEIGHT + "m.down_proj.weight_global_scale  F32      [1]\n", count=0),
    ),
)
