"""F8L801: codes that are no number, in blocks whose scale is zero, become zeros."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from fp8load.dtypes import DType, decode_table
from fp8load.errors import Problem
from fp8load.formats.stacked import stored_name
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.blocks import has_blocks, only_under
from fp8load.rules.repairs.users import users
from fp8load.scheme import Role
from fp8load.writing.actions import Convert

if TYPE_CHECKING:
    from numpy import bool_
    from numpy.typing import NDArray


def actions(context: Context, problem: Problem) -> Iterator[Convert]:
    """Zeros divided by a scale of zero are where these come from, and zero they were. Nothing is done for a weight that
    has such a code under another scale: that number is lost."""
    if not _may(context, problem):
        return
    meta = context.checkpoint.index.tensors[problem.tensor]
    if all(only_under(context, name, chosen=_not_zero, fine=_finite) for name in _scales(context, meta.name)):
        yield Convert(meta, meta.dtype, partial(_written, meta.dtype), "zeros for codes that are no number", "some")


def _may(context: Context, problem: Problem) -> bool:
    """Whether it is a weight of FP8 whose scales say block by block what they are."""
    meta = context.checkpoint.index.tensors.get(problem.tensor)
    scales = _scales(context, problem.tensor)
    return meta is not None and meta.dtype.is_fp8 and bool(scales) and all(has_blocks(context, name) for name in scales)


def _scales(context: Context, weight: str) -> set[str]:
    """The stored scales of a stored weight; "" for one that is not there."""
    pieces = context.checkpoint.lowered.pieces
    scales = [use.module.tensors.get(Role.WEIGHT_SCALE) for use in users(context).get(weight, [])]
    return {"" if scale is None else stored_name(scale.name, pieces) for scale in scales}


def _not_zero(values: NDArray[Any]) -> NDArray[bool_]:
    found: NDArray[bool_] = ~(values == 0)  # NaN too
    return found


def _finite(values: NDArray[Any]) -> NDArray[bool_]:
    import numpy as np

    found: NDArray[bool_] = np.isfinite(values)
    return found


def _written(dtype: DType, data: bytes) -> bytes:
    import numpy as np

    codes = np.frombuffer(data, np.uint8)
    return np.where(np.isfinite(decode_table(dtype)[codes]), codes, 0).astype(np.uint8).tobytes()


REPAIR = Repair(
    title="writes zeros where the scale of the block is zero", actions=actions, reads=True, may=_may,
    unless="some stand under another scale, and what they were is lost",
)  # fmt: skip
