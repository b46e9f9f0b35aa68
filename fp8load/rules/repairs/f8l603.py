"""F8L603: bytes of exponents that the configuration calls numbers become these numbers."""

from collections.abc import Iterator

from fp8load.dtypes import DType, decode
from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Repair
from fp8load.writing.actions import Convert


def actions(context: Context, problem: Problem) -> Iterator[Convert]:
    """2 ** (byte - 127) in F32, which holds every one of them. Only under `scale_fmt: float`: where it says ue8m0 both
    dtypes are noted, and neither is better."""
    meta = context.checkpoint.index.tensors.get(problem.tensor)
    if meta is not None and problem.severity is not Severity.INFO and meta.dtype in (DType.F8_E8M0, DType.U8):
        yield Convert(
            meta, DType.F32, lambda data: decode(DType.F8_E8M0, data).tobytes(), "the same numbers, in F32", "same"
        )


REPAIR = Repair(title="stores the exponents as the numbers that they mean", actions=actions)
