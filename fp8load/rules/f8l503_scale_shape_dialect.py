"""F8L503: a scale is stored in a shape that not every reader takes."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.formats.contradictions import accepted_shapes, one_number
from fp8load.index.index import TensorMeta
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import STATIC, TENSOR_WISE
from fp8load.scheme import LinearScheme, PerTensor, Role, scale_shape

ONE_NUMBER = ((), (1,))
"""Shapes of one number that every reader takes."""

SCALARS = frozenset({Role.INPUT_SCALE, Role.INPUT_GLOBAL_SCALE, Role.WEIGHT_GLOBAL_SCALE})


def check(context: Context) -> Iterator[Problem]:
    """Scales whose shape is another spelling of the usual one: [1, 1], [N], [N/bn, 1, K/bk, 1]."""
    for held in context.checkpoint.stored.held:
        known: dict[tuple[object, ...], str] = {}  # modules that are stored alike have few shapes
        for info in held.modules:
            weight = info.tensors[Role.WEIGHT].shape
            for role, meta in info.tensors.items():
                expected = known.get((role, meta.shape, weight))
                if expected is None:
                    expected = known[role, meta.shape, weight] = _expected(held.scheme, role, meta.shape, weight)
                if expected:
                    yield _problem(held.scheme, role, meta, expected)


def _expected(scheme: LinearScheme, role: Role, shape: tuple[int, ...], weight: tuple[int, ...]) -> str:
    """The usual shapes, where this one is another spelling of them; else nothing."""
    usual, accepted = _usual(scheme, role, weight)
    return " or ".join(str(list(one)) for one in usual) if shape in accepted and shape not in usual else ""


def _problem(scheme: LinearScheme, role: Role, meta: TensorMeta, expected: str) -> Problem:
    kind = scheme.weight.granularity if role is Role.WEIGHT_SCALE else PerTensor()
    return Problem(
        code="F8L503", message=f"a scale {kind} has another shape than the usual one", tensor=meta.name, file=meta.file,
        expected=expected, got=str(list(meta.shape)), severity=Severity.INFO, refuses=False,
        hint="fp8load reads it; engines that compare shapes refuse it until it is reshaped",
    )  # fmt: skip


_Shapes = tuple[tuple[int, ...], ...]


def _usual(scheme: LinearScheme, role: Role, weight: tuple[int, ...]) -> tuple[_Shapes, _Shapes]:
    """Shapes that every reader takes for a tensor of this role, and all that are legal; none for what is no scale."""
    if role in SCALARS:
        return ONE_NUMBER, one_number(weight[:-2])
    if role is not Role.WEIGHT_SCALE:
        return (), ()
    granularity = scheme.weight.granularity
    usual = ONE_NUMBER if granularity == PerTensor() else (scale_shape(granularity, weight),)
    return usual, accepted_shapes(scheme, weight)


RULE = Rule(
    code="F8L503",
    name="scale-shape-dialect",
    level="headers",
    severity=Severity.INFO,
    what="Notes scales of one number that are not [] or [1], scales of rows that are not [N, 1], and scales of blocks "
         "with axes of one between the others.",
    why="The numbers are the same. An engine that copies them into a parameter of the usual shape stops.",
    fix="Nothing for readers that reshape; else save the scales in the usual shape.",
    check=check,
    examples=(
        Example(title="[1, 1]", skeleton=STATIC + TENSOR_WISE.replace("weight_scale  F32      []",
                                                                      "weight_scale  F32      [1, 1]"), count=6),
        Example(title="[]", skeleton=STATIC + TENSOR_WISE, count=0),
        Example(title="[1]", skeleton=STATIC + TENSOR_WISE.replace("[]", "[1]"), count=0),
    ),
)  # fmt: skip
