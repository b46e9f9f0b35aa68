"""float32 numbers as codes of an FP8 dtype: to the nearest, ties to the even code, saturated; and as wider floats."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from fp8load.dtypes import LARGEST_FINITE, DType, decode_table

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray

_SIGN = 0x80


def encoded(dtype: DType, values: NDArray[float32]) -> NDArray[uint8]:
    """Codes of finite numbers, of the same shape. A zero keeps its sign where the dtype has two of them."""
    import numpy as np

    magnitudes = np.abs(values)
    low = np.searchsorted(_middles(dtype), magnitudes)  # a number in the middle gets the lower code
    is_tie = _middles(dtype)[np.minimum(low, len(_middles(dtype)) - 1)] == magnitudes
    codes = (low + (is_tie & (low % 2 == 1))).astype(np.uint8)
    signs = np.signbit(values)
    if dtype in (DType.F8_E4M3FNUZ, DType.F8_E5M2FNUZ):
        signs &= codes != 0  # the negative zero is the NaN of these
    found: NDArray[uint8] = codes | np.where(signs, _SIGN, 0).astype(np.uint8)
    return found


@cache
def _middles(dtype: DType) -> NDArray[float32]:
    """What lies between each non-negative finite code and the next."""
    import numpy as np

    table = decode_table(dtype)[:_SIGN]
    finite = table[np.isfinite(table) & (table <= LARGEST_FINITE[dtype])]
    middles: NDArray[float32] = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)
    return middles


def floats(dtype: DType, values: NDArray[float32]) -> bytes:
    """Numbers in a float of 16 bits or more, as stored: to the nearest, ties to even; NaN stays NaN.

    Raises `ValueError` for other dtypes.
    """
    import numpy as np

    match dtype:
        case DType.F64 | DType.F32 | DType.F16:
            with np.errstate(over="ignore"):  # becomes infinite, as in every reader
                return values.astype(f"<f{dtype.bits // 8}").tobytes()
        case DType.BF16:
            bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
            rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
            return np.where(np.isnan(values), 0x7FC0, rounded).astype("<u2").tobytes()
        case _:
            raise ValueError(f"{dtype} is no float of 16 bits or more")
