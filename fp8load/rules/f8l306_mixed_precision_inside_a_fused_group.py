"""F8L306: members of a layer that engines fuse are stored in different ways."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from fp8load.archs.shared import projections, shared_names
from fp8load.errors import Problem, Severity
from fp8load.formats.lowered import ModuleInfo
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.fused import FusedGroup, is_mixed, kind
from fp8load.rules.samples import BLOCK
from fp8load.scheme import Role

MAX_SHOWN = 3
"""Other members that one text names: a layer has hundreds of experts."""

QK = """\
model.layers.0.self_attn.{q,k}_proj.weight            F8_E4M3  [256, 256]
model.layers.0.self_attn.{q,k}_proj.weight_scale_inv  F32      [2, 2]
"""
EXPERTS = """\
m.layers.0.mlp.experts.{0..1}.{gate,up}_proj.weight            F8_E4M3  [256, 256]
m.layers.0.mlp.experts.{0..1}.{gate,up}_proj.weight_scale_inv  F32      [2, 2]
"""
AUDIO = """\
audio_tower.layers.0.self_attn.{q,k,v}_proj.weight  BF16  [256, 256]
audio_tower.layers.0.self_attn.{q,v}_proj.bias      BF16  [256]
"""


def check(context: Context) -> Iterator[Problem]:
    """The members that differ from most of their group, or all where there is no majority; and shared experts that are
    stored in another way than the routed ones, which only some engines make one layer of: a note."""
    for group in context.checkpoint.stored.mixed:
        yield from _problems(group, f"members of {group.name.rpartition('.')[2]}", _last)
    modules = context.checkpoint.lowered.modules
    said: set[str] = set()  # where gate and up are one matrix of shared experts only
    for group in context.checkpoint.stored.routed:
        if is_mixed(group):
            yield from _problems(group, "the experts of a layer", _numbered)
        else:
            for info in _shared(group, modules):
                if info.name not in said:
                    said.add(info.name)
                    yield _noted(info, group.members[0])


def _problems(group: FusedGroup, what: str, called: Callable[[ModuleInfo], str]) -> Iterator[Problem]:
    members = [info for info in group.members if kind(info, group) is not None]
    counts = Counter(kind(info, group) for info in members)
    usual, num_usual = counts.most_common(1)[0]
    majority = num_usual * 2 > len(members)
    for info in members:
        if majority and kind(info, group) == usual:
            continue
        others = islice((other for other in members if other is not info), MAX_SHOWN)
        shown = ", ".join(f"{called(other)} {_stored(other)}" for other in others)
        num_more = len(members) - 1 - MAX_SHOWN
        weight = info.tensors[Role.WEIGHT]
        yield Problem(
            code="F8L306", message=f"{what} are stored in different ways, and engines fuse them",
            tensor=weight.name, module=group.name, file=weight.file, got=f"{called(info)} {_stored(info)}",
            expected=f"one scheme for all: {shown}" + (f" and {num_more:,} more" if num_more > 0 else ""),
            hint="dequantize the quantized members, or quantize the others",
        )  # fmt: skip


def _shared(group: FusedGroup, modules: Mapping[str, ModuleInfo]) -> Iterator[ModuleInfo]:
    """The same projection of shared experts, under the names that any family has for them, if it is stored in another
    way."""
    experts, _, last = group.name.rpartition(".")
    slots = projections().get(last, frozenset())
    alike = dict.fromkeys((last, *(name for name, others in projections().items() if slots & others)))
    for name in (f"{experts.removesuffix('experts')}{shared}.{last}" for shared in shared_names() for last in alike):
        info = modules.get(name)
        if info is not None and is_mixed(group._replace(members=(info, group.members[0]))):
            yield info


def _noted(info: ModuleInfo, routed: ModuleInfo) -> Problem:
    """DeepSeek publishes routed experts in FP4 beside shared ones in FP8: that is legal."""
    weight = info.tensors[Role.WEIGHT]
    return Problem(
        code="F8L306", message="shared experts are stored in another way than the routed ones", tensor=weight.name,
        module=info.name, file=weight.file, expected=f"as {routed.name}, {_stored(routed)}, where an engine fuses them",
        got=_stored(info), severity=Severity.INFO, refuses=False,
        hint="legal; an engine that takes shared experts for further routed ones has to be told not to",
    )  # fmt: skip


def _last(info: ModuleInfo) -> str:
    return info.name.rpartition(".")[2]


def _numbered(info: ModuleInfo) -> str:
    return f"expert {info.name.split('.')[-2]}"


def _stored(info: ModuleInfo) -> str:
    bias = ", with bias" if Role.BIAS in info.tensors else ""
    return f"{info.scheme or info.tensors[Role.WEIGHT].dtype}{bias}"


RULE = Rule(
    code="F8L306",
    name="mixed-precision-inside-a-fused-group",
    level="headers",
    severity=Severity.ERROR,
    what="The stored members of q/k/v, of gate/up and of w1/w3 are quantized in one way, or none is; so are the "
         "experts of a layer. Members that a layer does not have do not count, and layers may differ from each other. "
         "Shared experts in another way than routed ones are noted. ComfyUI fuses nothing, so its files are left out.",
    why="Engines make one parameter of the group; it has one dtype and one kind of scale.",
    fix="Dequantize the quantized members of the group, or quantize the others.",
    check=check,
    examples=(
        Example(title="q and k are FP8, v is BF16", count=1,
                skeleton=BLOCK + QK + "model.layers.0.self_attn.v_proj.weight  BF16  [256, 256]\n"),
        Example(title="a layer without v", skeleton=BLOCK + QK, count=0),
        Example(title="one of three experts is BF16", count=2,
                skeleton=BLOCK + EXPERTS + "m.layers.0.mlp.experts.2.{gate,up}_proj.weight  BF16  [256, 256]\n"),
        Example(title="shared experts are BF16: gate and up are noted", count=2,
                skeleton=BLOCK + EXPERTS + "m.layers.0.mlp.shared_experts.{gate,up}_proj.weight  BF16  [256, 256]\n"),
        Example(title="Qwen's name for a shared expert", count=2,
                skeleton=BLOCK + EXPERTS + "m.layers.0.mlp.shared_expert.{gate,up}_proj.weight  BF16  [256, 256]\n"),
        Example(title="names of another kind, gate and up in one: noted once", count=1,
                skeleton=BLOCK + EXPERTS.replace("{gate,up}_proj", "{w1,w3}")
                + "m.layers.0.mlp.shared_mlp.gate_up_proj.weight  BF16  [512, 256]\n"),
        Example(title="shared experts as the routed ones", count=0, skeleton=BLOCK + EXPERTS
                + EXPERTS.replace("experts.{0..1}", "shared_experts")),
        Example(title="Whisper's k_proj, which has no bias", skeleton=BLOCK + AUDIO, count=0),
    ),
)  # fmt: skip
