"""The one function from a weight's box to its scale's box, for every granularity."""

from __future__ import annotations

from typing import assert_never

from fp8load.boxes import Box
from fp8load.plan.shard import CutError
from fp8load.scheme import Granularity, PerBlock, PerChannel, PerGroup, PerTensor, PerToken


class MisalignedError(CutError):
    """A weight's box cuts through a block or group."""


def _axis(begin: int, end: int, size: int, block: int, axis: str) -> tuple[int, int]:
    """`begin:end` in blocks. A cut is legal at a block boundary and at the end of the axis."""
    if begin % block or (end % block and end != size):
        at = begin if begin % block else end
        raise MisalignedError(f"{axis} {at} of {size} lies inside a block of {block}")
    return begin // block, -(-end // block)


def scale_box(granularity: Granularity, weight_box: Box, weight_shape: tuple[int, ...]) -> Box:
    """Which elements of a weight's scale belong to `weight_box` of a weight of `weight_shape` [N, K].

    The scale has its canonical shape (`fp8load.scheme.scale_shape`): [1], [N, 1], [ceil(N/bn), ceil(K/bk)] or
    [N, ceil(K/g)]. Raises `MisalignedError` where the box cuts a block.
    """
    (row0, col0), (row1, col1) = weight_box
    num_rows, num_cols = weight_shape
    match granularity:
        case PerTensor():
            return Box((0,), (1,))
        case PerChannel() | PerToken():
            return Box((row0, 0), (row1, 1))
        case PerBlock(rows=bn, cols=bk):
            block_row0, block_row1 = _axis(row0, row1, num_rows, bn, "row")
            block_col0, block_col1 = _axis(col0, col1, num_cols, bk, "column")
            return Box((block_row0, block_col0), (block_row1, block_col1))
        case PerGroup(cols=g):
            block_col0, block_col1 = _axis(col0, col1, num_cols, g, "column")
            return Box((row0, block_col0), (row1, block_col1))
        case _:
            assert_never(granularity)
