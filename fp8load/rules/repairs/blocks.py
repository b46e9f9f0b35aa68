"""Weights of the blocks that belong to some elements of a scale: whether all of them are as they should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from fp8load.dtypes import decode
from fp8load.formats.lowered import ModuleInfo
from fp8load.index.index import TensorMeta
from fp8load.rules.base import Context
from fp8load.rules.repairs.users import users
from fp8load.scheme import Granularity, PerBlock, PerGroup, PerTensor, Role
from fp8load.values.dequantize import can_be_dequantized, decoded, dequantizer_of
from fp8load.values.read import bands, grid_of

if TYPE_CHECKING:
    from numpy import bool_, float32
    from numpy.typing import NDArray

    from fp8load.checkpoint import Checkpoint

    Test = Callable[[NDArray[Any]], NDArray[bool_]]

CHUNK = 4 << 20
"""Bytes of a weight that are read at once."""


def has_blocks(context: Context, scale: str) -> bool:
    """Whether a stored tensor is a scale of weights whose elements each are for a block that can be told. From headers
    alone."""
    uses = users(context).get(scale, [])
    return bool(uses) and all(use.role is Role.WEIGHT_SCALE and _can_be_told(use.module) for use in uses)


def only_under(context: Context, scale: str, *, chosen: Test, fine: Test) -> bool:
    """Whether every block whose element of a stored weight scale is `chosen` holds codes only that are `fine`. False
    for what does not have blocks.

    Reads the rows of these blocks, up to the first number that is not.
    """
    uses = users(context).get(scale, [])
    return has_blocks(context, scale) and all(_are(context.checkpoint, use.module, chosen, fine) for use in uses)


def _can_be_told(info: ModuleInfo) -> bool:
    return info.scheme is not None and can_be_dequantized(info) and not info.transposed


def _are(checkpoint: Checkpoint, info: ModuleInfo, chosen: Test, fine: Test) -> bool:
    import numpy as np

    made = dequantizer_of(checkpoint, info, transforms=False)
    if made is None or made.scale is None or made.granularity is None:
        raise ValueError(f"{info.name} has no blocks")  # `has_blocks` has looked
    num_rows, num_cols = made.scale.shape
    at = chosen(decode(made.scale_dtype, made.scale.tobytes())).reshape(num_rows, num_cols)
    height, width = _block(made.granularity, info.tensors[Role.WEIGHT])
    for row in np.flatnonzero(at.any(axis=1)):
        for values in _rows(checkpoint, info.tensors[Role.WEIGHT], int(row) * height, height):
            if not fine(values[:, at[row].repeat(width)[: values.shape[1]]]).all():
                return False
    return True


def _block(granularity: Granularity, weight: TensorMeta) -> tuple[int, int]:
    """Rows and columns of a weight that one element of its scale is for."""
    num_rows, num_cols = weight.shape
    match granularity:
        case PerTensor():
            return num_rows, num_cols
        case PerBlock(rows=rows, cols=cols):
            return rows, cols
        case PerGroup(cols=cols):
            return 1, cols
        case _:
            return 1, num_cols


def _rows(checkpoint: Checkpoint, weight: TensorMeta, first: int, count: int) -> Iterator[NDArray[float32]]:
    """Rows of a weight as stored numbers [R, K]; fewer at its end."""
    num_rows, row_nbytes = grid_of(weight)
    count = min(count, num_rows - first)
    begin = weight.begin + first * row_nbytes
    part = weight._replace(shape=(count, weight.shape[1]), begin=begin, end=begin + count * row_nbytes)
    for _, raw in bands(checkpoint, part, columns_first=False, nbytes=CHUNK):
        yield decoded(weight.dtype, raw)
