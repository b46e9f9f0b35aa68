"""F8L903: the stored scales of the KV cache are all 1.0."""

from __future__ import annotations

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.families import scale_families
from fp8load.rules.samples import STATIC_KV, TENSOR_WISE
from fp8load.scheme import Role

SCALES = "model.layers.{0..1}.self_attn.{k,v}_scale  F32  []\n"
NAMES = [f"model.layers.{layer}.self_attn.{part}_scale" for layer in (0, 1) for part in "kv"]


def check(context: Context) -> Iterator[Problem]:
    """Every k_scale and v_scale, where all of them are 1.0 in all layers."""
    members = [m for family in scale_families(context, (Role.K_SCALE, Role.V_SCALE)) for m in family]
    if len(members) < 2 or any(member.stats.constant != 1 for member in members):
        return
    for member in members:
        meta = member.stats.meta
        yield Problem(
            code="F8L903", message="every scale of the KV cache is 1.0", tensor=meta.name, file=meta.file,
            expected="largest key or value / 448, layer by layer", got="1.0", severity=Severity.WARNING, refuses=False,
            hint="the cache was not calibrated, or the tool clamps scales to 1: values above 448 are clipped",
        )  # fmt: skip


RULE = Rule(
    code="F8L903",
    name="kv-scale-value",
    level="scales",
    severity=Severity.WARNING,
    what="The scales of an FP8 KV cache are not all 1.0; zero and negative ones are F8L702, missing ones F8L901.",
    why="Engines take them as calibrated. At 1.0 small keys and values lose their digits and large ones are clipped.",
    fix="Calibrate the cache, or remove the scales and let the engine say that it has none.",
    check=check,
    examples=(
        Example(title="all 1.0", skeleton=STATIC_KV + TENSOR_WISE + SCALES, count=4),
        Example(title="calibrated", skeleton=STATIC_KV + TENSOR_WISE + SCALES, count=0,
                values=dict.fromkeys(NAMES, 0.03125)),
        Example(title="one of them is 1.0", skeleton=STATIC_KV + TENSOR_WISE + SCALES, count=0,
                values=dict.fromkeys(NAMES[1:], 0.03125)),
    ),
)  # fmt: skip
