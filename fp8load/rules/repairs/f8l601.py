"""F8L601: 16-bit scales are widened to F32."""

from collections.abc import Iterator

from fp8load.dtypes import DType, decode
from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Repair
from fp8load.writing.actions import Convert


def actions(context: Context, problem: Problem) -> Iterator[Convert]:
    """Exact. Not of the one scale that differs from its siblings: that one may be bytes of another dtype."""
    meta = context.checkpoint.index.tensors.get(problem.tensor)
    if meta is not None and problem.severity is Severity.INFO and meta.dtype in (DType.BF16, DType.F16):
        dtype = meta.dtype
        yield Convert(meta, DType.F32, lambda data: decode(dtype, data).tobytes(), "widened to F32", "same")


REPAIR = Repair(title="widens the scales to F32", actions=actions)
