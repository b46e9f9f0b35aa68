"""F8L806: a weight is not what the source that it is said to come from has."""

from __future__ import annotations

from collections.abc import Iterator

from fp8load.dtypes import DType
from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED
from fp8load.scheme import Role
from fp8load.values.compare import Distance, median
from fp8load.values.report import kind_of

UNRELATED = 3.0
"""dB: below, more than half of a weight's energy is not the source's."""

APART = 10.0
"""dB below the median of the weights that are stored alike: three times the usual error."""

FLOORS = {
    DType.F8_E4M3: 25.0, DType.F8_E4M3FNUZ: 25.0, DType.F8_E5M2: 19.0, DType.F8_E5M2FNUZ: 19.0, DType.I8: 25.0,
    DType.F6_E2M3: 19.0, DType.F6_E3M2: 19.0, DType.F4: 13.0, DType.I4: 13.0,
}  # fmt: skip
"""dB that rounding to the nearest code gives at least, in any granularity."""

WEIGHT = "model.layers.0.mlp.down_proj.weight"
SCALE = WEIGHT + "_scale_inv"
LAYERS = QUANTIZED.replace("layers.0", "layers.{0..3}")
SAME: tuple[str, dict[str, float]] = (BLOCK + LAYERS, {})


def check(context: Context) -> Iterator[Problem]:
    """Weights that are far from the source's, further than others that are stored alike, of another shape, or of which
    that cannot be told."""
    if context.against is None:
        return
    kinds: dict[str, list[Distance]] = {}
    for distance in context.against.distances:
        if distance.is_known:
            kinds.setdefault(kind_of(distance), []).append(distance)
        elif distance.shapes is not None:
            yield _other_shape(distance, *distance.shapes)
        elif distance.readable:
            yield _not_finite(distance)
    for distances in kinds.values():
        usual = median(distance.sqnr for distance in distances)
        for distance in distances:
            yield from _judged(distance, usual)


def _judged(distance: Distance, usual: float) -> Iterator[Problem]:
    info = distance.info
    if distance.is_identical:
        return
    wanted = FLOORS.get(info.tensors[Role.WEIGHT].dtype, 40.0)
    if distance.sqnr < UNRELATED:
        yield _problem(distance, "a weight is not the source's", wanted, Severity.ERROR)
    elif distance.sqnr < min(usual, 2 * wanted) - APART:
        yield _problem(distance, "a weight is further from the source's than others", usual, Severity.WARNING)
    elif distance.sqnr < wanted:
        yield _problem(distance, "a weight differs from the source's by more than rounding", wanted, Severity.INFO)


_HINTS = {
    Severity.ERROR: "a scale of another layer, another revision of the source, or weights that were rotated or pruned",
    Severity.WARNING: "export this layer again, or see whether it was left out of calibration",
    Severity.INFO: "tools that smooth (AWQ, SmoothQuant) move a factor into the layer before; then this is as it "
    "should be",
}


def _problem(distance: Distance, message: str, wanted: float, severity: Severity) -> Problem:
    meta = distance.info.tensors[Role.WEIGHT]
    return Problem(
        code="F8L806", message=message, tensor=meta.name, module=distance.info.name, file=meta.file,
        expected=f"an SQNR of about {wanted:.0f} dB or more",
        got=f"{distance.sqnr:.1f} dB, largest error {distance.max_error:.2g} of the largest weight",
        severity=severity, refuses=False, hint=_HINTS[severity],
    )  # fmt: skip


def _other_shape(distance: Distance, here: tuple[int, int], there: tuple[int, int]) -> Problem:
    meta = distance.info.tensors[Role.WEIGHT]
    return Problem(
        code="F8L806", message="a weight has another shape than the source's", tensor=meta.name,
        module=distance.info.name, file=meta.file, expected=str(list(there)), got=str(list(here)),
        severity=Severity.WARNING, refuses=False, hint="another model, or a vocabulary that was padded or cut",
    )  # fmt: skip


def _not_finite(distance: Distance) -> Problem:
    meta = distance.info.tensors[Role.WEIGHT]
    return Problem(
        code="F8L806", message="a weight cannot be compared with the source's", tensor=meta.name,
        module=distance.info.name, file=meta.file, expected="finite numbers, here and in the source",
        got="a NaN or an infinity in one of them", severity=Severity.WARNING, refuses=False,
        hint="at level weights the rules F8L701 and F8L801 say where, if it is here; else the source has it",
    )  # fmt: skip


def _compares(context: Context) -> bool:
    return context.against is not None


RULE = Rule(
    code="F8L806",
    name="far-from-source",
    level="weights",
    severity=Severity.ERROR,
    what="With `--against SOURCE`: dequantized weights are those of the source but for rounding. Below 3 dB a weight "
    "is another one; 10 dB below others that are stored alike, it stands out.",
    why="Only the source shows a scale that was swapped between two similar layers, or a layer of an older revision.",
    fix="Export the layers that are named again.",
    check=check,
    runs=_compares,
    examples=(
        Example(title="a scale of another layer", skeleton=BLOCK + LAYERS, count=1, values={SCALE: 8.0}, against=SAME),
        Example(title="the same", skeleton=BLOCK + LAYERS, count=0, against=SAME),
        Example(title="a scale that is no number", skeleton=BLOCK + LAYERS, count=1, values={SCALE: float("nan")},
                against=SAME),
        Example(title="another shape", skeleton=BLOCK + QUANTIZED, count=1,
                against=(WEIGHT + " BF16 [512, 256]\n", {})),
        Example(title="not compared", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)  # fmt: skip
