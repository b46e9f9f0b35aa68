"""F8L703: a scale that points the wrong way is inverted."""

from collections.abc import Iterator
from functools import partial

from fp8load.dtypes import DType, decode
from fp8load.errors import Problem
from fp8load.index.index import TensorMeta
from fp8load.rules.base import Context, Repair
from fp8load.rules.direction import reciprocals
from fp8load.rules.families import WEIGHT_ROLES
from fp8load.rules.repairs.once import once
from fp8load.rules.repairs.users import users
from fp8load.writing.actions import Convert


def actions(context: Context, problem: Problem) -> Iterator[Convert]:
    """1 / scale, in F32 (F64 stays). Only where every module that uses the tensor reads it the wrong way. Scales in 16
    bits that point the right way are widened with it: in another dtype than its siblings a scale is refused."""
    meta = context.checkpoint.index.tensors.get(problem.tensor)
    if meta is None or context.scales is None or not meta.dtype.is_wide_float:
        return
    uses = users(context).get(meta.name, [])
    if uses and all(use.meta.name in _wrong(context) for use in uses):
        dtype = DType.F64 if meta.dtype is DType.F64 else DType.F32
        yield Convert(meta, dtype, partial(_inverted, meta.dtype), f"1 / scale, in {dtype}")
        first, others = _narrow(context)
        for other in others if meta.name == first else ():
            yield Convert(other, DType.F32, partial(_widened, other.dtype), "widened to F32, as others are", "same")


@once
def _narrow(context: Context) -> tuple[str, list[TensorMeta]]:
    """The first of the wrong scales in 16 bits, with which it is said, and the right ones in 16 bits."""
    wrong, right = list[str](), list[TensorMeta]()
    for name, uses in users(context).items():
        meta = context.checkpoint.index.tensors[name]
        if uses[0].role not in WEIGHT_ROLES or meta.dtype not in (DType.BF16, DType.F16):
            continue
        if all(use.meta.name in _wrong(context) for use in uses):
            wrong.append(name)
        else:
            right.append(meta)
    return (wrong[0], right) if wrong else ("", [])


def _widened(dtype: DType, data: bytes) -> bytes:
    return decode(dtype, data).tobytes()


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
