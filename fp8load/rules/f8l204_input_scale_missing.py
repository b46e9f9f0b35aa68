"""F8L204: activations are static and an input scale is missing."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.formats.lowered import ModuleInfo
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.families import family
from fp8load.rules.samples import STATIC, TENSOR_WISE
from fp8load.scheme import Role

OPTIONAL = ("comfyui", "comfyui_legacy")
"""Formats in which a layer is static where it has an input scale; no configuration says which are meant to be."""

LOST = TENSOR_WISE.replace("{0..1}.self_attn.{q,k,v}_proj.input_scale", "{0..1}.self_attn.{q,k}_proj.input_scale")
MARKERS = (
    'inside comfy_metadata {"blocks.0.mlp": {"format": "float8_e4m3fn"}, "blocks.1.mlp": {"format": "float8_e4m3fn"}}\n'
    "blocks.{0..1}.mlp.weight F8_E4M3 [96, 64]\nblocks.{0..1}.mlp.weight_scale F32 []\n"
)


def check(context: Context) -> Iterator[Problem]:
    """What lowering found; and notes of layers without one whose like have one, where it is optional."""
    yield from context.problems("F8L204")
    if context.checkpoint.format.name not in OPTIONAL:
        return
    families: dict[str, list[ModuleInfo]] = {}
    for name, info in context.checkpoint.lowered.modules.items():
        if info.scheme is not None:
            families.setdefault(family(name), []).append(info)
    for members in families.values():
        without = [info for info in members if info.scheme is not None and info.scheme.input is None]
        for info in without if len(without) < len(members) else ():
            weight = info.tensors[Role.WEIGHT]
            yield Problem(
                code="F8L204", message="other layers of the kind have an input scale, and this one has none",
                tensor=weight.name, module=info.name, file=weight.file, expected=f"{info.name}.input_scale, or none",
                got="no such tensor", severity=Severity.INFO, refuses=False,
                hint="its input is not quantized; a reader that takes 1.0 instead clips it",
            )  # fmt: skip


RULE = Rule(
    code="F8L204",
    name="input-scale-missing",
    level="headers",
    severity=Severity.ERROR,
    what="Under static activations every quantized module has its input scale. ComfyUI's layers may do without, which "
         "is noted where some of a kind have one.",
    why="A module that calibration never reached has none; engines then read 0 or 1, and clip or overflow.",
    fix="Calibrate with samples that reach the module, or export with dynamic activations.",
    check=check,
    examples=(
        Example(title="v_proj has none, in two layers", skeleton=STATIC + LOST, count=2),
        Example(title="one of two of ComfyUI's layers has one", count=1,
                skeleton=MARKERS + "blocks.0.mlp.input_scale F32 []\n"),
        Example(title="none of ComfyUI's layers has one", skeleton=MARKERS, count=0),
        Example(title="all have one", skeleton=STATIC + TENSOR_WISE, count=0),
    ),
)  # fmt: skip
