"""F8L801: a quantized weight holds codes that are no finite number."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED


def check(ctx: Context) -> Iterator[Problem]:
    """Every FP8 tensor with NaN or infinite codes, in the order of the files."""
    for stats in ctx.weights.stats if ctx.weights is not None else ():
        if stats.num_bad:
            meta = stats.meta
            yield Problem(
                code="F8L801",
                message="a weight holds codes that are no finite number",
                tensor=meta.name,
                file=meta.file,
                expected=f"finite codes of {meta.dtype}",
                got=f"{stats.num_bad:,} of {meta.num_elements:,}, the first at element {stats.first_bad:,}",
                refuses=False,
                hint="a block of zeros divided by its scale, or damaged bytes: export the layer again",
            )


RULE = Rule(
    code="F8L801",
    name="nan-codes",
    level="weights",
    severity=Severity.ERROR,
    what="No quantized weight holds a NaN or an infinity.",
    why="One such code makes a whole output row NaN, and no loader looks.",
    fix="Export the layer again, or fetch the file again.",
    check=check,
    examples=(
        Example(
            title="every code is a NaN",
            skeleton=BLOCK + QUANTIZED,
            count=1,
            values={"model.layers.0.mlp.down_proj.weight": float("nan")},
        ),
        Example(title="ones", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)
