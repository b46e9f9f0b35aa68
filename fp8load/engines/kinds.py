"""Names for the ways in which linear layers are quantized, as engines tell them apart: what their tables list."""

from __future__ import annotations

from typing import assert_never

from fp8load.dtypes import DType
from fp8load.scheme import LinearScheme, PerBlock, PerChannel, PerGroup, PerTensor, PerToken

MX_GROUP, NV_GROUP = 32, 16

_FP8 = ("fp8", "e5m2", "fnuz")
_OF_FP8 = ("tensor", "channel", "block", "group")
_INPUTS = ("", "-a8", "-a16")

KINDS = frozenset(
    [f"{element}-{how}{act}" for element in _FP8 for how in _OF_FP8 for act in _INPUTS]
    + [f"{name}{act}" for name in ("mxfp8", "mxfp6", "mxfp4", "nvfp4", "fp4-group", "int4", "int8") for act in _INPUTS]
    + ["other"]
)
"""Every name: an element with the granularity of its scales, or a format of its own; then what its input is quantized
to, where that is not what the weight is: 8-bit floats (-a8), or nothing (-a16)."""

_ELEMENT = {
    DType.F8_E4M3: "fp8",
    DType.F8_E5M2: "e5m2",
    DType.F8_E4M3FNUZ: "fnuz",
    DType.F8_E5M2FNUZ: "fnuz",
}


def kind_of(scheme: LinearScheme) -> str:
    """The name of a scheme's kind, one of `KINDS`."""
    dtype = scheme.weight.dtype
    if dtype in _ELEMENT:
        return _of_fp8(scheme)
    if dtype in (DType.F6_E2M3, DType.F6_E3M2):
        return "mxfp6" + ("" if scheme.input is not None else "-a16")
    if dtype is DType.F4:
        return _of_fp4(scheme)
    if dtype in (DType.I4, DType.I8):
        # compressed-tensors keeps 4-bit integers in bytes; the group is what tells them from 8-bit ones
        name = "int4" if isinstance(scheme.weight.granularity, PerGroup) or dtype is DType.I4 else "int8"
        return name + _input(scheme)
    return "other"


def _of_fp8(scheme: LinearScheme) -> str:
    element, granularity = _ELEMENT[scheme.weight.dtype], scheme.weight.granularity
    act = "" if scheme.input is not None else "-a16"
    match granularity:
        case PerTensor():
            return f"{element}-tensor{act}"
        case PerChannel() | PerToken():
            return f"{element}-channel{act}"
        case PerBlock():
            return f"{element}-block{act}"
        case PerGroup(cols=cols):
            is_mx = cols == MX_GROUP and scheme.weight.scale_dtype is DType.F8_E8M0 and element == "fp8"
            return f"mxfp8{act}" if is_mx else f"{element}-group{act}"
        case _:
            assert_never(granularity)


def _of_fp4(scheme: LinearScheme) -> str:
    granularity = scheme.weight.granularity
    name = "fp4-group"
    if isinstance(granularity, PerGroup) and granularity.cols == MX_GROUP and scheme.second_level is None:
        name = "mxfp4"
    elif isinstance(granularity, PerGroup) and granularity.cols == NV_GROUP and scheme.second_level is not None:
        name = "nvfp4"
    return name + _input(scheme)


def _input(scheme: LinearScheme) -> str:
    """What the input is quantized to, where that is not what the weight is."""
    if scheme.input is None:
        return "-a16"
    return "-a8" if scheme.input.dtype in _ELEMENT else ""
