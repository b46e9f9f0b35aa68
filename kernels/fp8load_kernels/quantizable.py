"""Which way of quantizing its input a scheme asks for, or why there is none."""

from __future__ import annotations

import enum

from fp8load.dtypes import DType
from fp8load.runtime.backend import No
from fp8load.scheme import LinearScheme, PerChannel, PerGroup, PerToken, QuantSpec, ScaleRounding
from fp8load_kernels.quantize_mx import MX_COLS, MX_DTYPES
from fp8load_kernels.quantize_nvfp4 import NVFP4_COLS
from fp8load_kernels.quantized import FP8_DTYPES
from fp8load_kernels.six_bits import SIX_BITS


class InputKind(enum.StrEnum):
    """Ways of quantizing an input. Closed."""

    NONE = "none"
    FP8 = "fp8"
    MX = "mx"
    NVFP4 = "nvfp4"


EXPONENTS = frozenset({DType.F8_E8M0, DType.U8})
"""Scale dtypes that hold powers of two: the bytes of E8M0 under either name."""


ROWS = (PerToken(), PerChannel())
"""How an input is scaled that has a scale for each token."""


def input_kind(scheme: LinearScheme) -> InputKind | No:
    """NONE for weight-only schemes; MX, NVFP4 and FP8 as below; `No` with the reason for everything else. Pure.

    MX     F8_E4M3 or F8_E5M2 in groups of 32 with E8M0 scales (by `scale_dtype`, or because `rounding` says powers of
           two), F6 in groups of 32, and F4 in groups with E8M0 scales
    NVFP4  F4 in groups with F8_E4M3 scales
    FP8    every other FP8 input

    Computed scales need no `scale_dtype`: without one, F4 in groups of 32 is MX, and in groups of 16 NVFP4.
    """
    spec = scheme.input
    if spec is None:
        return InputKind.NONE
    if spec.dtype is DType.F4:
        return _f4_kind(spec, two_levels=scheme.input_global is not None)
    if spec.dtype in SIX_BITS and spec.granularity == PerGroup(MX_COLS) and scheme.input_global is None:
        return InputKind.MX
    if spec.dtype not in FP8_DTYPES:
        return No(f"does not quantize inputs to {spec.dtype}")
    if scheme.input_global is not None:
        return No(f"takes a global input scale for F4 inputs, not for {spec.dtype}")
    if refuses_bound(scheme):
        return No(refuses_bound(scheme))
    mx = spec.dtype in MX_DTYPES and spec.granularity == PerGroup(MX_COLS)
    return InputKind.MX if mx and powers_of_two(scheme, spec) else InputKind.FP8


def refuses_bound(scheme: LinearScheme) -> str:
    """Why the upper bound of an input is not kept; nothing where it is, or where there is none."""
    spec = scheme.input
    if spec is None or spec.upper_bound is None or (spec.granularity in ROWS and not scheme.input_static):
        return ""
    return f"takes an upper bound of dynamic inputs scaled per token, not per {spec.granularity}"


def powers_of_two(scheme: LinearScheme, spec: QuantSpec) -> bool:
    """Whether the scales of an FP8 input are powers of two."""
    return scheme.rounding is ScaleRounding.POWER_OF_TWO or spec.scale_dtype in EXPONENTS


def _f4_kind(spec: QuantSpec, *, two_levels: bool) -> InputKind | No:
    if not isinstance(spec.granularity, PerGroup):
        return No(f"takes F4 inputs scaled per group, not {spec.granularity}")
    cols, stored = spec.granularity.cols, spec.scale_dtype
    if stored is DType.F8_E4M3 or (stored is None and cols == NVFP4_COLS):
        return InputKind.NVFP4
    if not (stored in EXPONENTS or (stored is None and cols == MX_COLS)):
        return No(f"takes F4 inputs with scales of F8_E8M0 or F8_E4M3, not {stored or 'any'} in groups of {cols}")
    return No("takes no global scale for MX inputs, which have one level of scales") if two_levels else InputKind.MX
