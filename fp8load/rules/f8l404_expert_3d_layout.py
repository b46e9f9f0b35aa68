"""F8L404: a tensor of all experts lies the other way round than its scale, or than the other one of its layer."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from fp8load.errors import Problem, Severity
from fp8load.formats.base import Claimed
from fp8load.index.index import TensorMeta
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.config import number
from fp8load.rules.families import family
from fp8load.rules.samples import BLOCK
from fp8load.scheme import PerBlock, Role, scale_shape

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint

PAIRS = (("gate_up_proj", "down_proj"), ("w13", "w2"))

GATE_UP = """\
m.experts.gate_up_proj            F8_E4M3  [4, 768, 256]
m.experts.gate_up_proj_scale_inv  F32      [4, 6, 2]
"""
DOWN = """\
m.experts.down_proj               F8_E4M3  [4, 256, 384]
m.experts.down_proj_scale_inv     F32      [4, 2, 3]
"""
HIDDEN = 'config {"hidden_size": 256}\n'
ACROSS = DOWN.replace("[4, 256, 384]", "[4, 384, 256]").replace("[4, 2, 3]", "[4, 3, 2]")


def check(context: Context) -> Iterator[Problem]:
    """Scales that fit the transpose only; pairs of which one has the hidden size first and the other has it last."""
    checkpoint = context.checkpoint
    wrong = {problem.tensor for problem in context.problems("F8L501")}
    for stack in {stack.base: stack for stack in checkpoint.lowered.stacks.values()}.values():
        scale = stack.roles.get(Role.WEIGHT_SCALE)
        if scale is not None and scale.name in wrong:
            yield from _scale_across(checkpoint, stack.base, stack.roles[Role.WEIGHT], scale)
    hidden = number(checkpoint.index.config, "hidden_size")
    if checkpoint.model is None and hidden is not None:  # a known family says which way its experts lie
        yield from _pairs_across(checkpoint, hidden)
    else:
        yield from _layers_across(checkpoint)


def _scale_across(checkpoint: "Checkpoint", base: str, weight: TensorMeta, scale: TensorMeta) -> Iterator[Problem]:
    claim = checkpoint.format.claim(base)
    granularity = claim.scheme.weight.granularity if isinstance(claim, Claimed) else None
    if not isinstance(granularity, PerBlock) or len(weight.shape) != 3:
        return
    experts, num_rows, num_cols = weight.shape
    if scale.shape == scale_shape(granularity, (experts, num_cols, num_rows)):
        expected = f"{list(scale_shape(granularity, weight.shape))} for {weight.name} {weight}"
        yield _problem(scale, "the scale fits the transpose of the experts only", expected, str(scale))


def _pairs_across(checkpoint: "Checkpoint", hidden: int) -> Iterator[Problem]:
    tensors = checkpoint.index.tensors
    for name, first in tensors.items():
        for gate_up, down in PAIRS:
            stem, found, tail = name.rpartition(f"experts.{gate_up}")
            second = tensors.get(f"{stem}experts.{down}{tail}") if found and tail in ("", ".weight") else None
            if second is None or not len(first.shape) == len(second.shape) == 3:
                continue
            rows_first = _is_only(first.shape[2], first.shape[1], hidden)
            others = _is_only(second.shape[1], second.shape[2], hidden)
            if rows_first is not None and others is not None and rows_first is not others:
                yield _problem(second, "the two tensors of a layer's experts lie in different ways",
                               f"columns first or rows first, as {first.name} {first}", str(second))  # fmt: skip


def _layers_across(checkpoint: "Checkpoint") -> Iterator[Problem]:
    """Stacks that lie the other way round than those of most other layers: by a known family's sizes they can be read,
    and no tool writes both."""
    families: dict[str, list[TensorMeta]] = {}
    for stack in {stack.base: stack for stack in checkpoint.lowered.stacks.values()}.values():
        families.setdefault(family(stack.base), []).append(stack.roles[Role.WEIGHT])
    for weights in families.values():
        shapes = Counter(meta.shape for meta in weights)
        usual, num_usual = shapes.most_common(1)[0]
        across = (*usual[:1], *usual[:0:-1])
        for meta in weights if across != usual else ():
            if meta.shape == across:
                expected = f"{list(usual)}, as in {num_usual:,} of {len(weights):,} layers"
                message = "the experts of a layer lie the other way round than other layers'"
                problem = _problem(meta, message, expected, str(meta))
                yield replace(problem, severity=Severity.INFO, refuses=False, hint=_READABLE)


_READABLE = "fp8load goes by the sizes in config.json; readers that take all layers alike stop, or compute nonsense"


def _is_only(size: int, other: int, hidden: int) -> bool | None:
    """Whether `size` is the hidden size and `other` is not; None where that cannot be told apart."""
    return None if (size == hidden) == (other == hidden) else size == hidden


def _problem(meta: TensorMeta, message: str, expected: str, got: str) -> Problem:
    return Problem(
        code="F8L404", message=message, tensor=meta.name, file=meta.file, expected=expected, got=got,
        severity=Severity.ERROR, hint="export it again, before a kernel's layout was put in its place",
    )  # fmt: skip


RULE = Rule(
    code="F8L404",
    name="expert-3d-layout",
    level="headers",
    severity=Severity.ERROR,
    what="A tensor that holds all experts of a layer lies as its scales do, and gate_up_proj as down_proj. "
        "Layers that lie in different ways are noted where the family's sizes tell which is which.",
    why="Both layouts exist, [E, out, in] and [E, in, out]. A reader that takes one for the other fails on its shape, "
        "or, where the matrix is square, computes nonsense.",
    fix="Transpose the tensor, with its scale, to the layout of the others.",
    check=check,
    examples=(
        Example(title="a scale of the transpose", skeleton=BLOCK + GATE_UP.replace("[4, 6, 2]", "[4, 2, 6]"), count=1),
        Example(title="one of two is transposed", skeleton=HIDDEN + BLOCK + GATE_UP + ACROSS, count=1),
        Example(title="both as linear layers", skeleton=HIDDEN + BLOCK + GATE_UP + DOWN, count=0),
        Example(title="both transposed", count=0, skeleton=HIDDEN + BLOCK + ACROSS
                + GATE_UP.replace("[4, 768, 256]", "[4, 256, 768]").replace("[4, 6, 2]", "[4, 2, 6]")),
    ),
)  # fmt: skip
