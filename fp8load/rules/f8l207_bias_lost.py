"""F8L207: a layer has no bias and its siblings have one."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.formats.lowered import ModuleInfo
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.config import flag
from fp8load.rules.families import family
from fp8load.rules.samples import BLOCK
from fp8load.scheme import Role

ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "qkv_proj"})
"""Last components of the layers that `attention_bias` speaks of."""

LAYERS = """\
model.layers.{0..3}.self_attn.q_proj.weight            F8_E4M3  [256, 256]
model.layers.{0..3}.self_attn.q_proj.weight_scale_inv  F32      [2, 2]
"""
BIASED = BLOCK.replace('{"quantization_config"', '{"attention_bias": true, "quantization_config"')


def check(context: Context) -> Iterator[Problem]:
    """Where the family is not known; where it is, its list of tensors names a bias that is missing (F8L109)."""
    if context.checkpoint.model is not None:
        return
    modules = context.checkpoint.lowered.modules
    families: dict[tuple[str, tuple[int, ...]], list[ModuleInfo]] = {}
    for name, info in modules.items():
        if not name.rpartition(".")[2].isdecimal():  # numbers at the end count the steps of a sequence, all different
            families.setdefault((family(name), info.tensors[Role.WEIGHT].shape), []).append(info)
    for members in families.values():
        without = [info for info in members if Role.BIAS not in info.tensors]
        num_with = len(members) - len(without)
        if num_with > len(without):
            yield from (_lost(info, num_with, len(members)) for info in without)
    attention = [info for name, info in modules.items() if name.rpartition(".")[2] in ATTENTION]
    declared = flag(context.checkpoint.index.config, "attention_bias")
    if declared and attention and not any(Role.BIAS in info.tensors for info in attention):
        yield Problem(
            code="F8L207", message="the configuration gives attention a bias and none is stored",
            module=attention[0].name, file="config.json", expected="biases, by attention_bias: true",
            got=f"none in {len(attention):,} layers", severity=Severity.WARNING, refuses=False,
            hint="engines start a bias at zero or at uninitialised memory: was it dropped by the export?",
        )  # fmt: skip


def _lost(info: ModuleInfo, num_with: int, num_siblings: int) -> Problem:
    weight = info.tensors[Role.WEIGHT]
    return Problem(
        code="F8L207", message="a bias is missing that siblings have", tensor=f"{info.name}.bias", file=weight.file,
        expected=f"[{weight.shape[0]}], as {num_with:,} of {num_siblings:,} siblings have", got="no such tensor",
        severity=Severity.WARNING, refuses=False, hint="lost by the export? engines run the layer without it",
    )  # fmt: skip


RULE = Rule(
    code="F8L207",
    name="bias-lost",
    level="headers",
    severity=Severity.WARNING,
    what="Where most layers of a kind have a bias, all have; and attention has one where config.json says so.",
    why="A layer without its bias loads everywhere, and is off by a constant.",
    fix="Export the layer again with its bias.",
    check=check,
    examples=(
        Example(title="three of four layers have it", count=1,
                skeleton=BLOCK + LAYERS + "model.layers.{0..2}.self_attn.q_proj.bias  BF16  [256]\n"),
        Example(title="attention_bias, and no bias", skeleton=BIASED + LAYERS, count=1),
        Example(title="no layer has one", skeleton=BLOCK + LAYERS, count=0),
        Example(title="each layer has one", count=0,
                skeleton=BIASED + LAYERS + "model.layers.{0..3}.self_attn.q_proj.bias  BF16  [256]\n"),
    ),
)  # fmt: skip
