"""Elements of a scale that are no scale, and whose block is zero whatever they are: one that is sound takes their
place."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from fp8load.dtypes import DType, decode
from fp8load.errors import Problem, Severity
from fp8load.index.index import TensorMeta
from fp8load.rules.base import Context
from fp8load.rules.repairs.blocks import has_blocks, only_under
from fp8load.rules.repairs.users import users
from fp8load.rules.scale_stats import DEAD
from fp8load.writing.actions import Convert
from fp8load.writing.shard import pieces

if TYPE_CHECKING:
    from numpy import bool_
    from numpy.typing import NDArray

    from fp8load.rules.repairs.blocks import Test


def not_finite(values: NDArray[Any]) -> NDArray[bool_]:
    """NaN and infinities."""
    import numpy as np

    found: NDArray[bool_] = ~np.isfinite(values)
    return found


def not_positive(values: NDArray[Any]) -> NDArray[bool_]:
    """Zero and what is below."""
    found: NDArray[bool_] = values <= 0
    return found


LOST = "a block of it holds weights, and what their scale was is lost"
"""Why nothing is done."""


def zero(values: NDArray[Any]) -> NDArray[bool_]:
    """Zeros of either sign."""
    found: NDArray[bool_] = values == 0
    return found


def zero_or_nan(values: NDArray[Any]) -> NDArray[bool_]:
    """What a block of zeros becomes when it is divided by a scale of zero."""
    import numpy as np

    found: NDArray[bool_] = (values == 0) | np.isnan(values)
    return found


def may_be_replaced(context: Context, problem: Problem) -> bool:
    """Whether `replaced` has blocks to look into: a scale of weights, in rows. Notes are no faults, and padding in a
    kernel's layout is none either."""
    meta = context.checkpoint.index.tensors.get(problem.tensor)
    if meta is None or problem.severity is not Severity.ERROR or meta.name in context.checkpoint.lowered.repacks:
        return False
    return has_blocks(context, meta.name)


def replaced(context: Context, problem: Problem, what: str, *, wrong: Test, empty: Test) -> Convert | None:
    """The scale with the least of its sound elements in place of those that are `wrong`, which is `what` they are.

    None where a block of these is not `empty`: what its scale was is lost. Reads the scale, and rows of the weight.
    """
    if not may_be_replaced(context, problem):
        return None
    meta = context.checkpoint.index.tensors[problem.tensor]
    if not only_under(context, meta.name, chosen=wrong, fine=empty):
        return None
    dtype = users(context)[meta.name][0].meta.dtype  # bytes that a format takes for exponents are U8 in the header
    element, value = _least(context, meta, dtype)
    said = f"{value:.6g} in place of what is {what}, where the weights are zero"
    return Convert(meta, meta.dtype, partial(_written, dtype, wrong, element), said, "some")


def _least(context: Context, meta: TensorMeta, dtype: DType) -> tuple[bytes, float]:
    """The smallest sound element, as stored and as a number; 1 where none is sound."""
    import numpy as np

    width, least, element = dtype.bits // 8, float("inf"), ONE[dtype]
    for data in pieces(context.checkpoint.source, meta):
        values = decode(dtype, data)
        sound = np.where(np.isfinite(values) & (values >= DEAD), values, np.inf)
        at = int(sound.argmin())
        if sound[at] < least:
            least, element = float(sound[at]), data[at * width : (at + 1) * width]
    return element, float(decode(dtype, element)[0])


def _written(dtype: DType, wrong: Test, element: bytes, data: bytes) -> bytes:
    import numpy as np

    codes = np.frombuffer(data, f"<u{dtype.bits // 8}").copy()
    codes[wrong(decode(dtype, data))] = np.frombuffer(element, codes.dtype)[0]
    return codes.tobytes()


ONE: dict[DType, bytes] = {
    DType.F64: b"\0\0\0\0\0\0\xf0\x3f", DType.F32: b"\0\0\x80\x3f", DType.F16: b"\0\x3c", DType.BF16: b"\x80\x3f",
    DType.F8_E4M3: b"\x38", DType.F8_E5M2: b"\x3c", DType.F8_E8M0: b"\x7f", DType.F8_E4M3FNUZ: b"\x40",
    DType.F8_E5M2FNUZ: b"\x40",
}  # fmt: skip
"""1.0 in the dtypes of scales that are floats."""
