"""Codes of weights and scales as numbers, within Triton kernels. Every one is exact, NaNs included.

E4M3 is converted by the hardware from compute capability 8.9 on; before, and for the other forms, its bits are put
where F16 has them and the difference of the exponents' biases is multiplied in, which keeps subnormal numbers.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def e4m3(byte):
    """E4M3 bytes as F16: sign, four bits of exponent of bias 7, three of mantissa; 0x7F and 0xFF are NaN."""
    bits = byte.to(tl.int16)
    number = (((bits & 0x80) << 8) | ((bits & 0x7F) << 7)).to(tl.float16, bitcast=True) * 256.0
    return tl.where((bits & 0x7F) == 0x7F, float("nan"), number).to(tl.float16)


@triton.jit
def e5m2(byte):
    """E5M2 bytes as F16: the upper half of it."""
    return (byte.to(tl.int16) << 8).to(tl.float16, bitcast=True)


@triton.jit
def i8(byte):
    """Bytes of two's complement as F16: 1024 + (b + 128) has b + 128 as its lowest bits."""
    bits = (byte.to(tl.int16) ^ 0x80) | 0x6400
    return bits.to(tl.float16, bitcast=True) - 1152.0


@triton.jit
def e2m1(nibble):
    """Nibbles of E2M1 (int16, 0 to 15) as F16: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives."""
    bits = ((nibble & 8) << 12) | ((nibble & 7) << 9)
    return bits.to(tl.float16, bitcast=True) * 16384.0


@triton.jit
def i4(nibble):
    """Nibbles of two's complement (int16, 0 to 15) as F16, as `i8`."""
    return ((nibble ^ 8) | 0x6400).to(tl.float16, bitcast=True) - 1032.0


@triton.jit
def e8m0(byte):
    """E8M0 bytes as float32: 2 ** (b - 127), 2 ** -127 being subnormal; 255 is NaN."""
    bits = byte.to(tl.int32)
    bits = tl.where(bits == 0, 0x00400000, tl.where(bits == 255, 0x7FC00000, bits << 23))
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def whole_bytes(data, KIND: tl.constexpr):
    """Codes of a byte each as F16. KIND: "hardware" where `data` has a type that converts, else what the bytes are."""
    if KIND == "hardware":
        number = data.to(tl.float16)
    elif KIND == "e4m3":
        number = e4m3(data)
    elif KIND == "e5m2":
        number = e5m2(data)
    else:
        number = i8(data)
    return number


@triton.jit
def nibbles(bits, KIND: tl.constexpr):
    """Codes of half a byte each, int16 of 0 to 15, as F16."""
    return e2m1(bits) if KIND == "e2m1" else i4(bits)


@triton.jit
def scales(data, KIND: tl.constexpr):
    """Scales as float32. KIND: "float", "e8m0" or "e4m3"."""
    if KIND == "e8m0":
        number = e8m0(data)
    elif KIND == "e4m3":
        number = e4m3(data).to(tl.float32)
    else:
        number = data.to(tl.float32)
    return number


@triton.jit
def e2m1_times(data, scale):
    """Bytes of two E2M1 codes, and a BF16 scale for each byte -> the even and the odd elements, BF16, times 2 ** -126.

    Two elements at a time: sign and exponent and mantissa of a nibble are moved to where BF16 has them, which makes
    code * 2 ** -126, and multiplied by the scale in one instruction. Exact while the product is a normal number, so
    scales come times a large power of two.
    """
    return tl.inline_asm_elementwise(
        asm="""
        {
        .reg .b32 lo, hi, t, zero;
        mov.b32 zero, 0x80008000;
        prmt.b32 lo, $4, 0, 0x1404;
        prmt.b32 hi, $4, 0, 0x3424;
        shr.b32 t, lo, 6;
        and.b32 t, t, 0x01C001C0;
        lop3.b32 t, lo, 0x80008000, t, 0xEA;
        fma.rn.bf16x2 $2, t, $5, zero;
        shr.b32 t, hi, 6;
        and.b32 t, t, 0x01C001C0;
        lop3.b32 t, hi, 0x80008000, t, 0xEA;
        fma.rn.bf16x2 $3, t, $6, zero;
        shr.b32 t, lo, 2;
        shl.b32 lo, lo, 4;
        and.b32 t, t, 0x01C001C0;
        lop3.b32 t, lo, 0x80008000, t, 0xEA;
        fma.rn.bf16x2 $0, t, $5, zero;
        shr.b32 t, hi, 2;
        shl.b32 hi, hi, 4;
        and.b32 t, t, 0x01C001C0;
        lop3.b32 t, hi, 0x80008000, t, 0xEA;
        fma.rn.bf16x2 $1, t, $6, zero;
        }
        """,
        constraints="=r,=r,=r,=r,r,r,r",
        args=[data, scale],
        dtype=(tl.bfloat16, tl.bfloat16),
        is_pure=True,
        pack=4,
    )
