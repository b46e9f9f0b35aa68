"""F8L204: activations are static and an input scale is missing."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.formats.inside import COMFYUI
from fp8load.formats.lowered import ModuleInfo
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.families import family
from fp8load.rules.samples import STATIC, TENSOR_WISE
from fp8load.scheme import Role

LOST = TENSOR_WISE.replace("{0..1}.self_attn.{q,k,v}_proj.input_scale", "{0..1}.self_attn.{q,k}_proj.input_scale")


def comfy(num_layers: int) -> str:
    """ComfyUI's layers, without input scales."""
    said = ", ".join(f'"blocks.{layer}.mlp": {{"format": "float8_e4m3fn"}}' for layer in range(num_layers))
    return (
        f"inside comfy_metadata {{{said}}}\n"
        f"blocks.{{0..{num_layers - 1}}}.mlp.weight F8_E4M3 [96, 64]\n"
        f"blocks.{{0..{num_layers - 1}}}.mlp.weight_scale F32 []\n"
    )


def check(context: Context) -> Iterator[Problem]:
    """What lowering found; and in ComfyUI's files, where a layer is static that has an input scale and nothing says
    which are meant to be, notes of layers without one whose like have one."""
    said = set()
    for problem in context.problems("F8L204"):
        said.add(problem.tensor.rpartition(".")[0])
        yield problem
    if context.checkpoint.format.name not in COMFYUI:
        return
    families: dict[str, list[ModuleInfo]] = {}
    for name, info in context.checkpoint.lowered.modules.items():
        if info.scheme is not None:
            families.setdefault(family(name), []).append(info)
    for members in families.values():
        without = [info for info in members if info.scheme is not None and info.scheme.input is None]
        for info in without if len(without) < len(members) else ():
            if info.name in said:
                continue
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
                skeleton=comfy(2) + "blocks.0.mlp.input_scale F32 []\n"),
        Example(title="one of three has none: a fault, and not noted once more", count=1,
                skeleton=comfy(3) + "blocks.{0..1}.mlp.input_scale F32 []\n"),
        Example(title="none of ComfyUI's layers has one", skeleton=comfy(2), count=0),
        Example(title="all have one", skeleton=STATIC + TENSOR_WISE, count=0),
    ),
)  # fmt: skip
