"""F8L703: a scale that points the wrong way is inverted."""

from collections.abc import Iterator
from functools import partial

from fp8load.dtypes import DType, decode
from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.direction import reciprocals
from fp8load.rules.repairs.once import once
from fp8load.rules.repairs.users import users
from fp8load.writing.actions import Convert


def actions(context: Context, problem: Problem) -> Iterator[Convert]:
    """1 / scale, in F32 (F64 stays). Only where every module that uses the tensor reads it the wrong way."""
    meta = context.checkpoint.index.tensors.get(problem.tensor)
    if meta is None or context.scales is None or not meta.dtype.is_wide_float:
        return
    uses = users(context).get(meta.name, [])
    if uses and all(use.meta.name in _wrong(context) for use in uses):
        dtype = DType.F64 if meta.dtype is DType.F64 else DType.F32
        yield Convert(meta, dtype, partial(_inverted, meta.dtype), f"1 / scale, in {dtype}")


@once
def _wrong(context: Context) -> frozenset[str]:
    """Scales, or pieces of them, that are the reciprocal of what they should be."""
    return frozenset(stats.meta.name for _, _, stats in reciprocals(context))


def _inverted(dtype: DType, data: bytes) -> bytes:
    return (1 / decode(dtype, data)).tobytes()


REPAIR = Repair(
    title="inverts the scale", actions=actions,
    only_if="its size shows that it points the wrong way, and a name that divides may be what is meant",
)  # fmt: skip
