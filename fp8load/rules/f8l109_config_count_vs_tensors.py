"""F8L109: tensors and config.json disagree about which tensors there are, or about their shapes."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.config import number
from fp8load.rules.samples import BLOCK, LLAMA
from fp8load.scheme import Role

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint

_LAYER = re.compile(r"(?:(?:model|language_model|transformer)\.)*(?:layers|h)\.(\d+)\.")
_EXPERT = re.compile(r"(.*\bexperts)\.(\d+)\.")
_EXPERTS = ("n_routed_experts", "num_local_experts", "num_experts")

FOREIGN = 'config {"model_type": "unheard-of", "num_hidden_layers": 3, "num_experts": 4}\n'
STACKED = """\
model.layers.0.mlp.experts.down_proj            F8_E4M3  [2, 256, 128]
model.layers.0.mlp.experts.down_proj_scale_inv  F32      [2, 2, 1]
"""
LAYERS = "model.layers.{0..%d}.mlp.experts.{0..%d}.up_proj.weight  BF16  [8, 8]\n"


def check(context: Context) -> Iterator[Problem]:
    """What the family's list of tensors shows; without a family, numbers of layers and of experts."""
    yield from context.problems("F8L109")
    if context.checkpoint.model is None:
        yield from _counted(context.checkpoint)


def _counted(checkpoint: "Checkpoint") -> Iterator[Problem]:
    """Layers that are not there, whatever stands behind the last, and sets of experts that are not as many as
    config.json says."""
    index = checkpoint.index
    layers: set[int] = set()
    experts: dict[str, set[int]] = {}
    for name in index.declared or index.tensors:
        layer, expert = _LAYER.match(name), _EXPERT.match(name)
        if layer is not None:
            layers.add(int(layer[1]))
        if expert is not None:
            experts.setdefault(expert[1], set()).add(int(expert[2]))
    num_layers = number(index.config, "num_hidden_layers")
    num_stored = sum(layer < num_layers for layer in layers) if num_layers is not None else 0
    if num_layers is not None and layers and num_stored < num_layers:
        yield _too_few("layers are missing that config.json declares", "", f"{num_layers:,} layers", f"{num_stored:,}")
    num_experts = number(index.config, *_EXPERTS)
    counts = {module: len(numbers) for module, numbers in experts.items()}
    counts |= {stack.base: stack.roles[Role.WEIGHT].shape[0] for stack in checkpoint.lowered.stacks.values()}
    for module, count in counts.items() if num_experts else ():
        if count != num_experts:
            yield _too_few("a layer has another number of experts than config.json declares", module,
                           f"{num_experts:,} experts", f"{count:,}")  # fmt: skip


def _too_few(message: str, module: str, expected: str, got: str) -> Problem:
    return Problem(code="F8L109", message=message, module=module, file="config.json", expected=expected, got=got,
                   severity=Severity.WARNING, refuses=False,
                   hint="the export is incomplete, or config.json belongs to another model")  # fmt: skip


RULE = Rule(
    code="F8L109",
    name="config-count-vs-tensors",
    level="headers",
    severity=Severity.ERROR,
    what="Every tensor that the family has with this config.json is stored in its shape, no other is, and tensors at "
         "the same place of each layer have one dtype. Where the family is not known, layers and experts are counted.",
    why="A norm that is missing keeps its initial ones, and the model answers worse without an error.",
    fix="Find the export step that lost or added the tensor; or config.json belongs to another model.",
    check=check,
    examples=(
        Example(title="the final norm is missing", count=1,
                skeleton=LLAMA.replace("model.norm.weight", "# model.norm.weight")),
        Example(title="two of three layers, of an unknown family", skeleton=FOREIGN + LAYERS % (1, 3), count=1),
        Example(title="the last is missing, and one for multi-token prediction stands behind it", count=1,
                skeleton=FOREIGN + (LAYERS % (1, 3)) + (LAYERS % (1, 3)).replace("{0..1}", "3")),
        Example(title="five experts instead of four, in three layers", skeleton=FOREIGN + LAYERS % (2, 4), count=3),
        Example(title="two instead of four in one tensor of all", count=1,
                skeleton=FOREIGN.replace('layers": 3', 'layers": 1') + BLOCK + STACKED),
        Example(title="as many as declared, of an unknown family", skeleton=FOREIGN + LAYERS % (2, 3), count=0),
        Example(title="complete", skeleton=LLAMA, count=0),
    ),
)  # fmt: skip
