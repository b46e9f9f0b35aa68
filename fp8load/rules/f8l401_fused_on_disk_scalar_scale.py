"""F8L401: a layer that is stored fused has one scale for all of its parts."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.formats.lowered import ModuleInfo
from fp8load.index.index import TensorMeta
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import NVFP4, NVFP4_GATE_UP, STATIC
from fp8load.rules.targets import both, engines
from fp8load.scheme import PerTensor, Role

FUSED = """\
model.layers.0.self_attn.qkv_proj.weight        F8_E4M3  [768, 256]
model.layers.0.self_attn.qkv_proj.weight_scale  F32      [1]
model.layers.0.self_attn.qkv_proj.input_scale   F32      [1]
"""


def check(context: Context) -> Iterator[Problem]:
    """Fused modules with a scheme per tensor, or with one global scale."""
    for group in context.checkpoint.stored.fused:
        info = group.members[0]
        for scale in _scalars(info) if group.fused_on_disk else ():
            yield Problem(
                code="F8L401", message="a layer that is stored fused has one scale for all of its parts",
                tensor=scale.name, module=info.name, file=scale.file, severity=Severity.INFO, refuses=False,
                expected="one scale for each part, in readers that split the layer", got=str(scale),
                hint="fp8load fills every slot with it; some engines fill the first only",
            )  # fmt: skip


def _scalars(info: ModuleInfo) -> Iterator[TensorMeta]:
    """The numbers that hold for the whole layer: the weight's, and the inputs' (sglang#14102); a raw cast has none."""
    if info.scheme is None:
        return
    per_tensor = info.scheme.weight.granularity == PerTensor()
    for role in (Role.WEIGHT_SCALE if per_tensor else Role.WEIGHT_GLOBAL_SCALE, *_INPUTS):
        scale = info.tensors.get(role)
        if scale is not None and scale.num_elements == 1:
            yield scale


_INPUTS = (Role.INPUT_SCALE, Role.INPUT_GLOBAL_SCALE)


RULE = Rule(
    code="F8L401",
    name="fused-on-disk-scalar-scale",
    level="headers",
    severity=Severity.INFO,
    what="Notes where qkv_proj or gate_up_proj is one tensor on disk with one scale, or in FP4 with one global scale, "
         "and where its inputs have one.",
    why="It is legal and exact. Engines that keep a slot for each part have filled only the first one.",
    fix="Nothing to mend; for an engine that fails, repeat the scale for each part.",
    check=both(check, engines("F8L401")),
    examples=(
        Example(title="one scale for qkv_proj, and one for its inputs", skeleton=STATIC + FUSED, count=2),
        Example(title="one global scale for gate_up_proj, and one for its inputs", count=2,
                skeleton=NVFP4 + NVFP4_GATE_UP.replace("{gate,up}", "gate_up")),
        Example(title="parts of their own", skeleton=STATIC + FUSED.replace("qkv_proj", "o_proj"), count=0),
        Example(title="in an engine that fills the first slot", skeleton=STATIC + FUSED, count=1,
                engine="sglang@0.5.4"),
        Example(title="in one that fills all", skeleton=STATIC + FUSED, count=0, engine="sglang@0.5.23"),
    ),
)  # fmt: skip
