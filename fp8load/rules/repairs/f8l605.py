"""F8L605: a scale in a kernel's layout is put back into the grid that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from fp8load.dtypes import DType, decode
from fp8load.errors import Problem
from fp8load.index.index import TensorMeta
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.once import once
from fp8load.rules.repairs.users import users
from fp8load.scheme import PerBlock, PerGroup, Role, scale_shape
from fp8load.swizzle import padded_shape, row_major
from fp8load.writing.actions import Remake
from fp8load.writing.shard import pieces
from fp8load.writing.transpose import transposed

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

Grid = tuple[int, int]


def actions(context: Context, problem: Problem) -> Iterator[Remake]:
    """Elements are moved and none is changed; those that only fill up tiles and words are left out. Where the shape
    fits two ways, nothing is done; nor where it is the weight that lies across: a sound grid looks turned
    beside that."""
    meta = context.checkpoint.index.tensors.get(problem.tensor)
    use, *others = users(context).get(problem.tensor, [None])
    scheme = None if use is None else use.module.scheme
    if meta is None or use is None or others or scheme is None:
        return
    granularity, weight = scheme.weight.granularity, use.module.tensors[Role.WEIGHT].shape
    if use.module.tensors[Role.WEIGHT].name in _across(context):
        return
    if not isinstance(granularity, PerBlock | PerGroup) or len(weight) != 2:
        return
    num_rows, num_cols = scale_shape(granularity, weight)
    block_rows = granularity.rows if isinstance(granularity, PerBlock) else 1
    found = _restored(context, meta, (num_rows, num_cols), (weight[0], block_rows))
    if found is not None:
        dtype, data, layout = found
        yield Remake(meta, dtype, (num_rows, num_cols), data, f"{layout} put back into {[num_rows, num_cols]}")


@once
def _across(context: Context) -> frozenset[str]:
    """Weights that are stored transposed."""
    return frozenset(problem.tensor for problem in context.problems("F8L506"))


_Restored = tuple[DType, Callable[[], Iterator[bytes]], str]


def _restored(context: Context, meta: TensorMeta, grid: Grid, rows: Grid) -> _Restored | None:
    """`rows` are those of the weight, and of a block. MX formats have exponents as bytes, others as numbers."""
    num_rows, block_rows = rows
    source = context.checkpoint.source
    if meta.dtype in (DType.I32, DType.U32):
        lying = _words(meta, grid, num_rows)
        dtype = DType.F8_E8M0 if grid[0] == num_rows else DType.F32
        if lying is None:
            return None
        step = 1 if lying[0] == grid[0] else block_rows
        return dtype, partial(_unpacked, context, meta, grid, (dtype, step, lying[1])), "words"
    tiles = padded_shape((num_rows, grid[1]))
    if meta.dtype.bits == 8 and meta.num_elements == tiles[0] * tiles[1] and grid[0] == num_rows:
        return meta.dtype, partial(_untiled, context, meta, grid), "tiles"
    if meta.shape == grid[::-1]:
        return meta.dtype, partial(transposed, source, meta), "columns"
    return None


def _words(meta: TensorMeta, grid: Grid, num_rows: int) -> tuple[int, bool] | None:
    """Rows of words that the tensor has, and whether it has columns first; None where that cannot be told."""
    words = -(-grid[1] // 4)
    fits = {
        (rows, columns_first)
        for rows in (grid[0], num_rows)
        for columns_first in (False, True)
        if meta.shape == ((words, rows) if columns_first else (rows, words))
    }
    return fits.pop() if len(fits) == 1 else None


def _flat(context: Context, meta: TensorMeta) -> NDArray[uint8]:
    import numpy as np

    return np.frombuffer(b"".join(pieces(context.checkpoint.source, meta)), np.uint8)


def _unpacked(context: Context, meta: TensorMeta, grid: Grid, how: tuple[DType, int, bool]) -> Iterator[bytes]:
    """Four exponents in a word, the first one lowest; rows of the weight say the same all through a block."""
    import numpy as np

    dtype, step, columns_first = how
    words = _flat(context, meta).reshape((*meta.shape, 4))
    lying = words.transpose(1, 0, 2) if columns_first else words
    exponents = lying.reshape(lying.shape[0], -1)[::step, : grid[1]].tobytes()
    yield exponents if dtype is DType.F8_E8M0 else decode(DType.F8_E8M0, exponents).astype(np.float32).tobytes()


def _untiled(context: Context, meta: TensorMeta, grid: Grid) -> Iterator[bytes]:
    padded_cols = padded_shape(grid)[1]
    yield row_major(_flat(context, meta).tobytes(), padded_cols)[: grid[0], : grid[1]].tobytes()


REPAIR = Repair(
    title="puts the scale back into its grid", actions=actions, only_if="only the shape says which layout it is in"
)
