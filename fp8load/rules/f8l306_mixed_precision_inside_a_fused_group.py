"""F8L306: members of a layer that engines fuse are stored in different ways."""

from collections import Counter
from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.formats.lowered import ModuleInfo
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.fused import FusedGroup, kind
from fp8load.rules.samples import BLOCK
from fp8load.scheme import Role

QK = """\
model.layers.0.self_attn.{q,k}_proj.weight            F8_E4M3  [256, 256]
model.layers.0.self_attn.{q,k}_proj.weight_scale_inv  F32      [2, 2]
"""


def check(context: Context) -> Iterator[Problem]:
    """The members that differ from most of their group, or all where there is no majority."""
    for group in context.checkpoint.stored.mixed:
        yield from _problems(group)


def _problems(group: FusedGroup) -> Iterator[Problem]:
    members = [info for info in group.members if kind(info) is not None]
    counts = Counter(kind(info) for info in members)
    usual, num_usual = counts.most_common(1)[0]
    majority = num_usual * 2 > len(members)
    last = group.name.rpartition(".")[2]
    for info in members:
        if majority and kind(info) == usual:
            continue
        others = ", ".join(_stored(other) for other in members if other is not info)
        weight = info.tensors[Role.WEIGHT]
        yield Problem(
            code="F8L306", message=f"members of {last} are stored in different ways, and engines fuse them",
            tensor=weight.name, module=group.name, file=weight.file, expected=f"one scheme for all: {others}",
            got=_stored(info), hint="dequantize the quantized members, or quantize the others",
        )  # fmt: skip


def _stored(info: ModuleInfo) -> str:
    bias = ", with bias" if Role.BIAS in info.tensors else ""
    return f"{info.name.rpartition('.')[2]} {info.scheme or info.tensors[Role.WEIGHT].dtype}{bias}"


RULE = Rule(
    code="F8L306",
    name="mixed-precision-inside-a-fused-group",
    level="headers",
    severity=Severity.ERROR,
    what="The stored members of q/k/v, of gate/up and of w1/w3 are quantized in one way, or none is. Members that a "
         "layer does not have do not count, and layers may differ from each other.",
    why="Engines make one parameter of the group; it has one dtype and one kind of scale.",
    fix="Dequantize the quantized members of the group, or quantize the others.",
    check=check,
    examples=(
        Example(title="q and k are FP8, v is BF16", count=1,
                skeleton=BLOCK + QK + "model.layers.0.self_attn.v_proj.weight  BF16  [256, 256]\n"),
        Example(title="a layer without v", skeleton=BLOCK + QK, count=0),
    ),
)  # fmt: skip
