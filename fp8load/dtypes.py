"""The dtypes of safetensors 0.8 and what formats pack: size, range, poison byte, exact decoding of the small ones.

Sources: the safetensors format (names and bit sizes); OCP 8-bit Floating Point Specification 1.0 (E4M3, E5M2); OCP
Microscaling Formats 1.0 (E8M0, E2M1, E2M3, E3M2); Graphcore/AMD fnuz (bias one higher, no infinity, 0x80 is NaN).
"""

from __future__ import annotations

import enum
from functools import cache
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class DType(enum.StrEnum):
    """A dtype by its name in a safetensors header; I4 stands in none: formats pack it into I8 and I32."""

    BOOL = "BOOL"
    I4 = "I4"
    F4 = "F4"
    F6_E2M3 = "F6_E2M3"
    F6_E3M2 = "F6_E3M2"
    U8 = "U8"
    I8 = "I8"
    F8_E5M2 = "F8_E5M2"
    F8_E4M3 = "F8_E4M3"
    F8_E8M0 = "F8_E8M0"
    F8_E4M3FNUZ = "F8_E4M3FNUZ"
    F8_E5M2FNUZ = "F8_E5M2FNUZ"
    I16 = "I16"
    U16 = "U16"
    F16 = "F16"
    BF16 = "BF16"
    I32 = "I32"
    U32 = "U32"
    F32 = "F32"
    C64 = "C64"
    F64 = "F64"
    I64 = "I64"
    U64 = "U64"

    @property
    def bits(self) -> int:
        """Size of one element in bits."""
        return BITS[self]

    @property
    def is_fp8(self) -> bool:
        """Whether this is an 8-bit float that weights are stored in (E8M0 is a scale dtype only)."""
        return self in FP8_WEIGHT_DTYPES

    @property
    def is_wide_float(self) -> bool:
        """Whether this is a float of 16 bits or more: the dtypes of unquantized tensors and of float scales."""
        return self in WIDE_FLOATS


BITS: dict[DType, int] = {
    DType.I4: 4, DType.F4: 4, DType.F6_E2M3: 6, DType.F6_E3M2: 6,
    DType.BOOL: 8, DType.U8: 8, DType.I8: 8, DType.F8_E5M2: 8, DType.F8_E4M3: 8, DType.F8_E8M0: 8,
    DType.F8_E4M3FNUZ: 8, DType.F8_E5M2FNUZ: 8,
    DType.I16: 16, DType.U16: 16, DType.F16: 16, DType.BF16: 16,
    DType.I32: 32, DType.U32: 32, DType.F32: 32,
    DType.C64: 64, DType.F64: 64, DType.I64: 64, DType.U64: 64,
}  # fmt: skip

ON_DISK = frozenset(DType) - {DType.I4}
"""Dtypes that a header may name."""

FP8_WEIGHT_DTYPES = frozenset({DType.F8_E4M3, DType.F8_E5M2, DType.F8_E4M3FNUZ, DType.F8_E5M2FNUZ})

WIDE_FLOATS = frozenset({DType.F16, DType.BF16, DType.F32, DType.F64})

LARGEST_FINITE: dict[DType, float] = {
    DType.F4: 6.0, DType.F6_E2M3: 7.5, DType.F6_E3M2: 28.0,
    DType.F8_E4M3: 448.0, DType.F8_E5M2: 57344.0, DType.F8_E4M3FNUZ: 240.0, DType.F8_E5M2FNUZ: 57344.0,
}  # fmt: skip
"""Largest finite magnitude of the dtypes that weights and activations are quantized to."""

NAN_BYTES: dict[DType, bytes] = {
    DType.F8_E4M3: b"\x7f", DType.F8_E5M2: b"\x7f", DType.F8_E8M0: b"\xff",
    DType.F8_E4M3FNUZ: b"\x80", DType.F8_E5M2FNUZ: b"\x80",
    DType.F16: b"\xff\x7f", DType.BF16: b"\xff\x7f", DType.F32: b"\xff\xff\xff\x7f", DType.F64: b"\xff" * 7 + b"\x7f",
    DType.U8: b"\xff",  # a U8 scale holds E8M0 bytes, and 255 is the NaN of E8M0
}  # fmt: skip
"""One NaN of each dtype that scales are stored in, as bytes: what unwritten scale slots hold."""


def nbytes_of(dtype: DType, shape: tuple[int, ...]) -> int:
    """Bytes that a tensor takes in a file; packed dtypes (4 and 6 bits) must fill whole bytes, else `ValueError`."""
    num_bits = prod(shape) * BITS[dtype]
    if num_bits % 8:
        raise ValueError(f"{prod(shape)} elements of {BITS[dtype]} bits do not fill whole bytes")
    return num_bits // 8


def _decode_small(code: int, exponent_bits: int, mantissa_bits: int, bias: int) -> float:
    """Value of a sign/exponent/mantissa code, special codes aside."""
    sign = -1.0 if code >> (exponent_bits + mantissa_bits) & 1 else 1.0
    exponent = code >> mantissa_bits & ((1 << exponent_bits) - 1)
    mantissa = code & ((1 << mantissa_bits) - 1)
    if exponent == 0:
        return float(sign * mantissa * 2.0 ** (1 - bias - mantissa_bits))
    return float(sign * (1 + mantissa / (1 << mantissa_bits)) * 2.0 ** (exponent - bias))


def _value(dtype: DType, code: int) -> float:
    """Exact value of one code of a float of at most eight bits."""
    nan, inf = float("nan"), float("inf")
    match dtype:
        case DType.F8_E4M3:
            return nan if code & 0x7F == 0x7F else _decode_small(code, 4, 3, 7)
        case DType.F8_E5M2:
            if code & 0x7C == 0x7C:
                return nan if code & 3 else (-inf if code & 0x80 else inf)
            return _decode_small(code, 5, 2, 15)
        case DType.F8_E4M3FNUZ:
            return nan if code == 0x80 else _decode_small(code, 4, 3, 8)
        case DType.F8_E5M2FNUZ:
            return nan if code == 0x80 else _decode_small(code, 5, 2, 16)
        case DType.F8_E8M0:
            return nan if code == 0xFF else 2.0 ** (code - 127)
        case DType.F4:
            return _decode_small(code & 0xF, 2, 1, 1)
        case DType.F6_E2M3:
            return _decode_small(code & 0x3F, 2, 3, 1)
        case DType.F6_E3M2:
            return _decode_small(code & 0x3F, 3, 2, 3)
        case _:
            raise ValueError(f"{dtype} has no table of its values")


@cache
def decode_table(dtype: DType) -> NDArray[np.float32]:
    """256 float32 values, one for each byte: of a float of at most eight bits, exactly; of I4, by its lower half."""
    import numpy as np

    if dtype is DType.I4:
        return np.array([(code & 0xF ^ 8) - 8 for code in range(256)], dtype=np.float32)
    return np.array([_value(dtype, code) for code in range(256)], dtype=np.float32)


def decode(dtype: DType, data: bytes | memoryview) -> NDArray[np.float32] | NDArray[np.float64]:
    """Stored bytes as numbers, flat: float32 (exact for every float of up to 32 bits), or float64 for F64.

    Raises `ValueError` for dtypes that are not floats and for packed 4- and 6-bit dtypes.
    """
    import numpy as np

    match dtype:
        case DType.F32:
            return np.frombuffer(data, dtype="<f4")
        case DType.F64:
            return np.frombuffer(data, dtype="<f8")
        case DType.F16:
            return np.frombuffer(data, dtype="<f2").astype(np.float32)
        case DType.BF16:
            return (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
        case DType.F8_E4M3 | DType.F8_E5M2 | DType.F8_E4M3FNUZ | DType.F8_E5M2FNUZ | DType.F8_E8M0:
            table: NDArray[np.float32] = decode_table(dtype)
            return table[np.frombuffer(data, dtype=np.uint8)]
        case _:
            raise ValueError(f"{dtype} does not hold one float in whole bytes")
