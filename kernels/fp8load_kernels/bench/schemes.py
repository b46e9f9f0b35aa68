"""Common schemes: what shapes without a checkpoint are stored as, and what `doctor` asks backends about."""

from __future__ import annotations

from fp8load.dtypes import DType
from fp8load.scheme import (
    LinearScheme,
    PerBlock,
    PerChannel,
    PerGroup,
    PerTensor,
    PerToken,
    QuantSpec,
    SecondLevel,
    Storage,
)


def _fp8(granularity: PerTensor | PerChannel | PerToken | PerBlock | PerGroup, *, stored: bool = True) -> QuantSpec:
    return QuantSpec(dtype=DType.F8_E4M3, granularity=granularity, scale_dtype=DType.F32 if stored else None)


SCHEMES = {
    "block": LinearScheme(weight=_fp8(PerBlock(128, 128)), input=_fp8(PerGroup(128), stored=False)),
    "channel": LinearScheme(weight=_fp8(PerChannel()), input=_fp8(PerToken(), stored=False)),
    "tensor": LinearScheme(weight=_fp8(PerTensor()), input=_fp8(PerTensor()), input_static=True),
    "weight-only": LinearScheme(weight=_fp8(PerChannel())),
}
"""What shapes without a checkpoint are stored as."""

_MXFP8 = QuantSpec(dtype=DType.F8_E4M3, granularity=PerGroup(32), scale_dtype=DType.F8_E8M0)
_MXFP4 = QuantSpec(dtype=DType.F4, granularity=PerGroup(32), scale_dtype=DType.F8_E8M0)
_NVFP4 = QuantSpec(dtype=DType.F4, granularity=PerGroup(16), scale_dtype=DType.F8_E4M3)
_PACKED, _GLOBAL = Storage(elements_per_byte=2), SecondLevel(dtype=DType.F32)

COMMON = {
    "per tensor": SCHEMES["tensor"],
    "per channel": SCHEMES["channel"],
    "128x128 blocks": SCHEMES["block"],
    "weight-only FP8": SCHEMES["weight-only"],
    "MXFP8": LinearScheme(weight=_MXFP8, input=_MXFP8),
    "MXFP4": LinearScheme(weight=_MXFP4, input=_MXFP4, storage=_PACKED),
    "NVFP4": LinearScheme(weight=_NVFP4, input=_NVFP4, second_level=_GLOBAL, input_global=_GLOBAL, storage=_PACKED),
}
"""One scheme of each common kind, by a name that a line of `doctor` has room for."""
