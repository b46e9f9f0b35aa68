"""F8L801: a quantized weight holds codes that are no finite number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fp8load.dtypes import decode_table
from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED
from fp8load.rules.scales import chunks

if TYPE_CHECKING:
    from numpy import bool_
    from numpy.typing import NDArray

    from fp8load.dtypes import DType
    from fp8load.index.index import TensorMeta


def check(ctx: Context) -> Iterator[Problem]:
    """Every FP8 tensor with NaN or infinite codes, read in pieces and in the order of the files."""
    metas = [meta for meta in ctx.checkpoint.index.tensors.values() if meta.dtype.is_fp8]
    for meta in sorted(metas, key=lambda meta: (meta.file, meta.begin)):
        count, first = _bad_codes(ctx, meta)
        if count:
            yield Problem(
                code="F8L801",
                message="a weight holds codes that are no finite number",
                tensor=meta.name,
                file=meta.file,
                expected=f"finite codes of {meta.dtype}",
                got=f"{count:,} of {meta.num_elements:,}, the first at element {first:,}",
                refuses=False,
                hint="a block of zeros divided by its scale, or damaged bytes: export the layer again",
            )


def _bad_codes(ctx: Context, meta: TensorMeta) -> tuple[int, int]:
    """How many codes are not finite, and the flat position of the first."""
    import numpy as np

    bad = _not_finite(meta.dtype)
    count, first, offset = 0, -1, 0
    for data in chunks(ctx.checkpoint, meta):
        found = bad[np.frombuffer(data, dtype=np.uint8)]
        here = int(found.sum())
        if here and first < 0:
            first = offset + int(found.argmax())
        count += here
        offset += len(data)
    return count, first


def _not_finite(dtype: DType) -> NDArray[bool_]:
    import numpy as np

    return ~np.isfinite(decode_table(dtype))


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
