"""F8L802: the codes of a weight leave most of their dtype's range unused."""

from __future__ import annotations

from collections.abc import Iterator

from fp8load.dtypes import LARGEST_FINITE, DType
from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED, STATIC, TENSOR_WISE
from fp8load.rules.weights import WeightStats
from fp8load.scheme import LinearScheme, PerChannel, PerTensor, Role, ScaleRounding

SHARE = 100 / 448
"""The least that the largest code of a tensor may be of the dtype's largest: rounding loses nothing of it."""

POWERS_SHARE = 224 / 448
"""The same under scales that are powers of two, which fall short by less than a factor of two."""

Q = "model.layers.0.self_attn.q_proj.weight"


def check(context: Context) -> Iterator[Problem]:
    """FP8 weights with one scale, or one for each row, whose largest code is small. Of weights that share a scale, as
    stacked experts and the members of a fused layer do, the largest counts."""
    if context.weights is None:
        return
    groups: dict[str, list[WeightStats]] = {}
    shared = _shared(context)
    for stats in context.weights.stats:
        scale = _scale_of(stats)
        if scale is not None:
            scale = shared.get(scale, scale)
            groups.setdefault(scale, []).append(stats)
    for members in groups.values():
        widest = max(members, key=lambda stats: stats.largest)
        if not widest.is_zero and widest.module is not None and widest.module.scheme is not None:
            yield from _problem(widest, _share(widest.module.scheme))


def _shared(context: Context) -> dict[str, str]:
    """Scale of a member of a fused layer -> a name for all that are the same number: exporters give members one, that
    of the widest, because engines keep one for all."""
    found: dict[str, str] = {}
    for group in context.checkpoint.stored.fused:
        for info in group.members if len(group.members) > 1 and context.scales is not None else ():
            scale = info.tensors.get(Role.WEIGHT_SCALE)
            stats = None if scale is None or context.scales is None else context.scales.by_name.get(scale.name)
            if stats is not None and stats.constant is not None:
                found[stats.meta.name] = f"{group.name} {stats.constant!r}"
    return found


def _scale_of(stats: WeightStats) -> str | None:
    """The scale of a weight that this rule looks at."""
    info = stats.module
    if info is None or info.scheme is None or not stats.meta.dtype.is_fp8:
        return None
    if not isinstance(info.scheme.weight.granularity, PerTensor | PerChannel):
        return None
    scale = info.tensors.get(Role.WEIGHT_SCALE)
    return None if scale is None else scale.name


def _share(scheme: LinearScheme) -> float:
    powers = scheme.rounding is ScaleRounding.POWER_OF_TWO or scheme.weight.scale_dtype is DType.F8_E8M0
    return POWERS_SHARE if powers else SHARE


def _problem(stats: WeightStats, share: float) -> Iterator[Problem]:
    meta = stats.meta
    most = LARGEST_FINITE[meta.dtype]
    if stats.largest < most * share:
        yield Problem(
            code="F8L802", message="a weight uses a small part of its dtype's range", tensor=meta.name, file=meta.file,
            expected=f"codes up to {most:g}, or {most * share:g} at least", got=f"codes up to {stats.largest:g}",
            severity=Severity.WARNING, refuses=False,
            hint="its scale is too large for it, or it was cast without scaling: small weights became zero",
        )  # fmt: skip


RULE = Rule(
    code="F8L802",
    name="range-unused",
    level="weights",
    severity=Severity.WARNING,
    what="The largest code of an FP8 weight with one scale, or one for each row, is near the dtype's largest: from 100 "
    "of 448, or from 224 under scales that are powers of two. Of weights that share a scale, or of members of a fused "
    "layer that have the same one, the widest counts.",
    why="Scales map the largest weight to the largest code. One that does not is stale, or was never computed.",
    fix="Quantize the layer again from its source.",
    check=check,
    examples=(
        Example(title="codes up to 4", skeleton=STATIC + TENSOR_WISE, count=1, values={Q: 4.0, f"{Q}_scale": 0.5}),
        Example(title="codes up to 4, under the scale of k and v", skeleton=STATIC + TENSOR_WISE, count=0,
                values={Q: 4.0}),
        Example(title="codes up to 208", skeleton=STATIC + TENSOR_WISE, count=0, values={Q: 208.0}),
        Example(title="blocks, of which each has its own range", skeleton=BLOCK + QUANTIZED, count=0,
                values={"model.layers.0.mlp.down_proj.weight": 4.0}),
    ),
)  # fmt: skip
