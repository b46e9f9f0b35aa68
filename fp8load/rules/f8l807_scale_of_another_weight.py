"""F8L807: a weight has the scales of another weight, or of an earlier version of itself."""

from __future__ import annotations

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.foreign import foreign
from fp8load.rules.samples import BLOCK, QUANTIZED
from fp8load.scheme import Role

LAYERS = QUANTIZED.replace("layers.0.mlp.down", "layers.{0..3}.mlp.{down,up}")
RIGHT = {
    f"model.layers.{layer}.mlp.{part}_proj.weight_scale_inv": size
    for layer in range(4)
    for part, size in (("down", 2e-4), ("up", 9e-4))
}
SWAPPED = {"model.layers.1.mlp.down_proj.weight_scale_inv": 9e-4, "model.layers.1.mlp.up_proj.weight_scale_inv": 2e-4}


def check(context: Context) -> Iterator[Problem]:
    """Weights that are out of place with the scales that they have."""
    if context.weights is None:
        return
    for stats, partner, why in foreign(context.weights):
        info = stats.module
        scale = None if info is None else info.tensors.get(Role.WEIGHT_SCALE)
        if scale is None:
            continue
        fits = "" if partner is None else f"; with the scale of {partner.meta.name} it would fit, and that with its"
        yield Problem(
            code="F8L807", message="the scale does not belong to its weight", tensor=scale.name, file=scale.file,
            expected="scales that go with the codes, as those of other weights do", got=why + fits,
            severity=Severity.WARNING, refuses=False,
            hint="two scales were exchanged: export both layers again" if partner is not None
            else "a scale of another layer, or of an earlier export: export this layer again",
        )  # fmt: skip


RULE = Rule(
    code="F8L807",
    name="scale-of-another-weight",
    level="weights",
    severity=Severity.WARNING,
    what="Scales go with the codes of their weight: where a piece has an outlier, its scale is large and its other "
    "codes are small. And a weight is about as large as the same projection in other layers; two that are not, and "
    "would be with each other's scales, have exchanged them. Both are measured against how the checkpoint's other "
    "weights are, so that one that has no such habit is no alarm.",
    why="Two scales that were swapped, or one that an update of the weight left behind, have the right names, shapes "
    "and sizes; the model starts, and answers badly.",
    fix="Export these layers again; `fp8load verify --against` the source shows by how much they are off.",
    check=check,
    examples=(
        Example(title="two scales of a layer are exchanged", skeleton=BLOCK + LAYERS, count=2,
                values={**RIGHT, **SWAPPED}),
        Example(title="every scale where it belongs", skeleton=BLOCK + LAYERS, count=0, values=RIGHT),
        Example(title="a layer that is larger as a whole", skeleton=BLOCK + LAYERS, count=0,
                values={**RIGHT, **{name: 4 * RIGHT[name] for name in SWAPPED}}),
    ),
)  # fmt: skip
