"""Schemes of the 4-bit and the microscaling formats, which several dialects write under names of their own.

Sources: OCP Microscaling Formats 1.0 (groups of 32 along a row, an E8M0 exponent each); NVIDIA NVFP4 (groups of 16, an
E4M3 scale each, and one float for the tensor). Packed weights hold two E2M1 floats in a byte, the even one low, or four
6-bit floats in three bytes, the first one lowest.
"""

from __future__ import annotations

from dataclasses import replace

from fp8load.dtypes import DType
from fp8load.scheme import LinearScheme, PerGroup, QuantSpec, SecondLevel, SharedExponent, Storage

PACKED = Storage(elements_per_byte=2)
MX_GROUP = PerGroup(32)

MXFP4 = QuantSpec(dtype=DType.F4, granularity=MX_GROUP, scale_dtype=DType.F8_E8M0)
MXFP6_E3M2 = QuantSpec(dtype=DType.F6_E3M2, granularity=MX_GROUP, scale_dtype=DType.F8_E8M0)
MXFP6_E2M3 = QuantSpec(dtype=DType.F6_E2M3, granularity=MX_GROUP, scale_dtype=DType.F8_E8M0)
MXFP8 = QuantSpec(dtype=DType.F8_E4M3, granularity=MX_GROUP, scale_dtype=DType.F8_E8M0)


def nvfp4_spec(group: int = 16) -> QuantSpec:
    """E2M1 elements with an E4M3 scale for each group of a row."""
    return QuantSpec(dtype=DType.F4, granularity=PerGroup(group), scale_dtype=DType.F8_E4M3)


def mx(
    weight: QuantSpec, activation: QuantSpec | None, exponent: SharedExponent = SharedExponent.FLOOR
) -> LinearScheme:
    """A scheme with E8M0 scales: MXFP4, MXFP6 or MXFP8 weights, inputs quantized while running, or not at all.

    `exponent` is how the tool that wrote the file chooses the scales of inputs.
    """
    storage = PACKED if weight.dtype is DType.F4 else Storage()
    if activation is not None and activation.granularity == MX_GROUP:
        activation = replace(activation, exponent=exponent)
    return LinearScheme(weight=weight, input=activation, storage=storage)


def nvfp4(*, divides: bool, quantized_input: bool, group: int = 16) -> LinearScheme:
    """A scheme with E4M3 block scales and a global scale: a multiplier in ModelOpt, a divisor in compressed-tensors.

    A quantized input has block scales computed while running, and a stored global scale of the same direction.
    """
    second = SecondLevel(dtype=DType.F32, divides=divides)
    return LinearScheme(
        weight=nvfp4_spec(group),
        input=nvfp4_spec(group) if quantized_input else None,
        second_level=second,
        input_global=second if quantized_input else None,
        storage=PACKED,
    )
