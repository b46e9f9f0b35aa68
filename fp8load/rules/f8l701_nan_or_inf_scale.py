"""F8L701: a scale is NaN or infinite."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED

SCALE = "model.layers.0.mlp.down_proj.weight_scale_inv"


def check(context: Context) -> Iterator[Problem]:
    """Every scale with elements that are not finite; those that no weight uses are only noted."""
    if context.scales is None:
        return
    unused = context.checkpoint.lowered.unused
    for stats in context.scales.stats:
        meta = stats.meta
        if stats.first_not_finite < 0:
            continue
        counts = ((stats.num_nan, "NaN"), (stats.num_inf, "infinite"))
        kinds = [f"{count:,} {word}" for count, word in counts if count]
        is_unused = meta.name in unused
        yield Problem(
            code="F8L701", message="a scale is not finite" + (", and nothing uses it" if is_unused else ""),
            tensor=meta.name, file=meta.file, expected=f"{meta.num_elements:,} finite numbers",
            got=f"{' and '.join(kinds)}, the first at {stats.position(stats.first_not_finite)}", refuses=not is_unused,
            severity=Severity.INFO if is_unused else Severity.ERROR,
            hint=unused.get(meta.name, "export the layer again: its block becomes NaN, and with it every output"),
        )  # fmt: skip


RULE = Rule(
    code="F8L701",
    name="nan-or-inf-scale",
    level="scales",
    severity=Severity.ERROR,
    what="Every element of every scale (weights, inputs, KV cache) is finite, in any dtype.",
    why="One NaN among a million block scales makes every token's output NaN, or nonsense where NaN is masked.",
    fix="Export the layer again. Quantizing a block of zeros is the usual origin.",
    check=check,
    examples=(
        Example(title="NaN", skeleton=BLOCK + QUANTIZED, count=1, values={SCALE: float("nan")}),
        Example(title="a small number", skeleton=BLOCK + QUANTIZED, count=0, values={SCALE: 2e-4}),
    ),
)
