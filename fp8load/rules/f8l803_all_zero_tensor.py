"""F8L803: a weight is zero, or the end of a file is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED
from fp8load.rules.weights import WeightStats

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint
    from fp8load.index.index import FileMeta

FEWEST = 1000
"""Elements of a weight that may be zero: small tensors of parts that are switched off are."""

PAGE = 4096
TAIL = 16 << 20
"""Bytes at the end of a file that are looked at; of a small file its second half. Padding rows of a vocabulary are
zero too, and shorter than half of this."""

FEWEST_PAGES = 16
WEIGHT = "model.layers.0.mlp.down_proj.weight"


def check(context: Context) -> Iterator[Problem]:
    """Matrices without an element that is not zero, and files whose end is mostly pages of zeros."""
    if context.weights is None:
        return
    zero = [stats for stats in context.weights.stats if stats.is_zero and _counts(stats)]
    for stats in zero:
        meta = stats.meta
        yield Problem(
            code="F8L803", message="every element of a weight is zero", tensor=meta.name, file=meta.file,
            expected=f"{meta.num_elements:,} trained numbers", got="zeros", refuses=False,
            hint="a tensor that was never written, or a download that left a hole: fetch or export it again",
        )  # fmt: skip
    said = {stats.meta.file for stats in zero}
    for file in context.checkpoint.index.files.values():
        if file.name not in said:
            yield from _end_of(context.checkpoint, file)


def _counts(stats: WeightStats) -> bool:
    return len(stats.meta.shape) > 1 and stats.meta.num_elements > FEWEST


def _end_of(checkpoint: Checkpoint, file: FileMeta) -> Iterator[Problem]:
    """A file whose last pages are mostly zeros: space that was reserved and never filled."""
    import numpy as np

    begin = max(file.nbytes - TAIL, file.header_nbytes + (file.nbytes - file.header_nbytes) // 2)
    num_pages = (file.nbytes - begin) // PAGE
    if num_pages < FEWEST_PAGES:
        return
    data = checkpoint.source.read(file.name, file.nbytes - num_pages * PAGE, file.nbytes)
    pages = np.frombuffer(data, np.uint8)[: len(data) // PAGE * PAGE].reshape(-1, PAGE)
    num_zero = int((~pages.any(axis=1)).sum())
    if num_zero * 2 > num_pages:
        yield Problem(
            code="F8L803", message="the end of a file is mostly zeros", file=file.name,
            expected=f"weights in its last {num_pages:,} pages of {PAGE} bytes", got=f"zeros in {num_zero:,} of them",
            refuses=False, hint="a download that reserved the space and stopped: fetch the file again",
        )  # fmt: skip


RULE = Rule(
    code="F8L803",
    name="all-zero-tensor",
    level="weights",
    severity=Severity.ERROR,
    what="No matrix of more than 1,000 elements is all zeros, quantized or not, and no file ends in pages of zeros.",
    why="A tool that allocates and does not write, or a broken download, leaves zeros; shapes and sizes are as said.",
    fix="Fetch the file again; if the publisher's is the same, export the layer again.",
    check=check,
    examples=(
        Example(title="zeros", skeleton=BLOCK + QUANTIZED, count=1, values={WEIGHT: 0.0}),
        Example(title="a BF16 embedding of zeros", count=1, values={"model.embed_tokens.weight": 0.0},
                skeleton=BLOCK + QUANTIZED + "model.embed_tokens.weight  BF16  [64, 64]\n"),
        Example(title="numbers", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)  # fmt: skip
