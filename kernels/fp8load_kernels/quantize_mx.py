"""MXFP8, MXFP6 and MXFP4: groups that share a power of two. OCP Microscaling Formats 1.0, section 6.3.

Shape letters: M rows (tokens), K columns, G = ceil(K / g) groups of g columns (32 in the formats of that name).
"""

from __future__ import annotations

from math import frexp
from typing import assert_never

import torch

from fp8load.dtypes import LARGEST_FINITE, DType
from fp8load.scheme import SharedExponent
from fp8load_kernels.quantized import Quantized, by_column, group_amax, to_codes

MX_DTYPES = frozenset({DType.F8_E4M3, DType.F8_E5M2, DType.F6_E3M2, DType.F6_E2M3, DType.F4})
"""Element dtypes that the specification has, and that are quantized to here."""

MX_COLS = 32
"""The one group size of the specification."""

ELEMENT_BITS = {DType.F8_E4M3: 3, DType.F8_E5M2: 2, DType.F6_E3M2: 2, DType.F6_E2M3: 3, DType.F4: 1}
"""Mantissa bits of the element dtypes."""

_MANTISSA_BITS = 23
"""Of a float32."""

_LARGEST_BYTE = 254


def quantize_mx(
    x_MK: torch.Tensor, dtype: DType, cols: int = MX_COLS, exponent: SharedExponent = SharedExponent.FLOOR
) -> Quantized:
    """Groups of `cols` neighbours in a row, scaled by `mx_scale`; elements to nearest even, saturated.

    x [M, K] -> codes [M, K] of `dtype`, one of `MX_DTYPES`, and scales float32 [M, G]. Dividing by a power of two is
    exact, so an element is rounded once.
    """
    x = x_MK.float()
    block = mx_scale(x, dtype, cols, exponent)
    scale = block.float()
    codes = to_codes(x / by_column(scale, cols, x.shape[1]), dtype)
    return Quantized(codes=codes, dtype=dtype, scale=scale, cols=cols, block=block)


def mx_scale(
    x_MK: torch.Tensor, dtype: DType, cols: int = MX_COLS, exponent: SharedExponent = SharedExponent.FLOOR
) -> torch.Tensor:
    """The shared scales of x [M, K], F8_E8M0 [M, G], by the rule `exponent`: the specification's, or another tool's.

    Clamped to 2 ** -127 ... 2 ** 127; groups of zeros have the smallest. A NaN or infinity makes the scale a NaN.
    With all rules but `FIT` the largest element may saturate: with E4M3 and `FLOOR` what lies between 448 and 512 times
    the scale becomes 448.
    """
    amax = group_amax(x_MK.float(), cols)
    # The exponent bits of a float32: floor(log2) + 127, and 0 for zeros and subnormals, whose scale is the smallest.
    # What is added to the bits carries into them where the rule rounds up.
    biased = (amax.view(torch.int32) + carry_of(dtype, exponent)) >> _MANTISSA_BITS
    byte = (biased - largest_exponent(dtype)).clamp(0, _LARGEST_BYTE).masked_fill(~amax.isfinite(), 255)
    return byte.to(torch.uint8).view(torch.float8_e8m0fnu)


def carry_of(dtype: DType, exponent: SharedExponent) -> int:
    """What the bits of a float32 are short of the next power of two where the rule starts to take that one."""
    match exponent:
        case SharedExponent.FLOOR:
            return 0
        case SharedExponent.ELEMENT:
            return 1 << (_MANTISSA_BITS - ELEMENT_BITS[dtype] - 1)
        case SharedExponent.ONE_BIT:
            return 1 << (_MANTISSA_BITS - 2)
        case SharedExponent.CEIL:
            return (1 << _MANTISSA_BITS) - 1
        case SharedExponent.FIT:
            # Mantissas above the largest value's: 1.75 for E4M3 and E5M2 and E3M2, 1.875 for E2M3, 1.5 for E2M1.
            mantissa = 2 * frexp(LARGEST_FINITE[dtype])[0]
            return int((2 - mantissa) * (1 << _MANTISSA_BITS)) - 1
        case _:
            assert_never(exponent)


def largest_exponent(dtype: DType) -> int:
    """floor(log2) of the largest finite value: 8 for E4M3, 15 for E5M2, 4 for E3M2, 2 for E2M3 and E2M1."""
    return frexp(LARGEST_FINITE[dtype])[1] - 1
