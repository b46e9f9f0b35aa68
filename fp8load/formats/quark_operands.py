"""What Quark's specifications of a layer's operands mean; see `fp8load.formats.quark`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from fp8load.dtypes import DType
from fp8load.errors import ConfigError, Problem
from fp8load.formats.base import Located
from fp8load.formats.microscaling import MXFP4, MXFP6_E2M3, MXFP6_E3M2, MXFP8, PACKED, mx, nvfp4
from fp8load.scheme import (
    Granularity,
    LinearScheme,
    NibbleOrder,
    PerBlock,
    PerChannel,
    PerGroup,
    PerTensor,
    PerToken,
    QuantSpec,
    SecondLevel,
    SharedExponent,
)

EXPONENTS = {
    None: SharedExponent.ELEMENT,
    "even": SharedExponent.ELEMENT,
    "floor": SharedExponent.FLOOR,
    "ceil": SharedExponent.CEIL,
}
"""`scale_calculation_mode`, and what it means."""

MX_SPECS = {"mxfp4": MXFP4, "mxfp6_e3m2": MXFP6_E3M2, "mxfp6_e2m3": MXFP6_E2M3, "mxfp8": MXFP8}

ELEMENTS = {"fp8_e4m3": DType.F8_E4M3, "fp8_e5m2": DType.F8_E5M2}

INT4_ON_FP8 = LinearScheme(
    weight=QuantSpec(dtype=DType.I4, granularity=PerChannel()), second_level=SecondLevel(dtype=DType.F32)
)
"""Codes of FP8 that were quantized once more: an integer times the scale of its row is such a code, and times the scale
of the tensor the weight."""

WORDS = {"reorder": NibbleOrder.EVEN_FIRST, "order": NibbleOrder.LOW_FIRST}
"""`export.pack_method`, and the order of eight integers in a word."""


class Spec(BaseModel):
    """How one tensor is quantized; keys of calibration and of integer schemes are left alone."""

    model_config = ConfigDict(extra="allow")

    dtype: str
    qscheme: str
    group_size: int | None = None
    symmetric: bool | None = None
    block_size: list[int] | None = None
    is_dynamic: bool | None = None
    scale_format: str | None = None
    scale_calculation_mode: str | None = None


class LayerConfig(BaseModel):
    """QLayerConfig: the operands of a layer."""

    model_config = ConfigDict(extra="allow")

    weight: Spec | list[Spec]
    input_tensors: Spec | list[Spec] | None = None
    output_tensors: Any = None


def unsupported(located: Located, key: str, expected: str, got: str) -> ConfigError:
    """What a configuration says and this version does not do."""
    return ConfigError(Problem(
        code="F8L107", message=f"{key} is not supported by this version", file=located.place, expected=expected,
        got=got,        hint="`fp8load inspect --skeleton` still lists what the files hold",
    ))  # fmt: skip


def kind_of(spec: Spec | list[Spec] | None) -> str:
    """What an operand is quantized to, in one word."""
    if spec is None:
        return "none"
    if isinstance(spec, list):
        inner = [f"{part.dtype} {part.qscheme} {part.group_size}" for part in spec]
        if inner == ["fp8_e4m3 per_tensor None", "int4 per_channel None"] and spec[1].symmetric:
            return "int4 on fp8"
        return "nvfp4" if inner == ["fp4 per_group 16", "fp8_e4m3 per_tensor None"] else " then ".join(inner)
    if spec.scale_format == "e8m0" and spec.group_size == 32:
        words = {"fp4": "mxfp4", "fp6_e3m2": "mxfp6_e3m2", "fp6_e2m3": "mxfp6_e2m3", "fp8_e4m3": "mxfp8"}
        return words.get(spec.dtype, spec.dtype)
    return f"{spec.dtype} {spec.qscheme}"


def scheme_of(layer: LayerConfig, located: Located, key: str) -> LinearScheme:
    """How a layer is stored and run; `key` is where the configuration says it. Raises `ConfigError`."""
    weight, inputs = kind_of(layer.weight), kind_of(layer.input_tensors)
    if weight == "nvfp4" and inputs in ("nvfp4", "none"):
        return nvfp4(divides=False, quantized_input=inputs == "nvfp4")
    if weight == "int4 on fp8":
        order = _word_order(located)
        return replace(_with_input(INT4_ON_FP8, layer, located, key), storage=replace(PACKED, nibble_order=order))
    if weight in MX_SPECS and (inputs in MX_SPECS or inputs == "none"):
        return mx(MX_SPECS[weight], MX_SPECS.get(inputs), _exponent(layer.input_tensors, located, key))
    spec = layer.weight if isinstance(layer.weight, Spec) else None
    granularity = _granularity(spec) if spec is not None and spec.dtype in ELEMENTS else None
    if spec is None or granularity is None or isinstance(granularity, PerGroup):
        expected = "FP8 per tensor, channel or block, MXFP4, MXFP6, MXFP8, NVFP4, or symmetric int4 on FP8"
        raise unsupported(located, f"{key}.weight", expected, weight)
    stored = LinearScheme(weight=QuantSpec(dtype=ELEMENTS[spec.dtype], granularity=granularity))
    return _with_input(stored, layer, located, key)


def _with_input(scheme: LinearScheme, layer: LayerConfig, located: Located, key: str) -> LinearScheme:
    """The scheme of a weight with inputs in FP8, or as they are. Raises `ConfigError` for others."""
    if layer.input_tensors is None:
        return scheme
    given = layer.input_tensors if isinstance(layer.input_tensors, Spec) else None
    activation = _granularity(given) if given is not None and given.dtype in ELEMENTS else None
    static = given is not None and not given.is_dynamic
    if (
        given is None
        or activation is None
        or isinstance(activation, PerBlock)
        or (static and activation != PerTensor())
    ):
        expected = "FP8 per tensor, or dynamic per token or group"
        raise unsupported(located, f"{key}.input_tensors", expected, kind_of(layer.input_tensors))
    of_rows: Granularity = PerToken() if activation == PerChannel() else activation
    return replace(scheme, input=QuantSpec(dtype=ELEMENTS[given.dtype], granularity=of_rows), input_static=static)


def _word_order(located: Located) -> NibbleOrder:
    method = (located.document.get("export") or {}).get("pack_method", "reorder")
    if method not in WORDS:
        raise unsupported(located, "export.pack_method", " or ".join(WORDS), str(method))
    return WORDS[method]


def _exponent(inputs: Spec | list[Spec] | None, located: Located, key: str) -> SharedExponent:
    mode = inputs.scale_calculation_mode if isinstance(inputs, Spec) else None
    if mode not in EXPONENTS:
        expected = ", ".join(sorted(filter(None, EXPONENTS)))
        raise unsupported(located, f"{key}.input_tensors.scale_calculation_mode", expected, str(mode))
    return EXPONENTS[mode]


def _granularity(spec: Spec) -> Granularity | None:
    """What shares a scale, by `qscheme`; None for what has no size, or one that is none."""
    match spec.qscheme:
        case "per_tensor":
            return PerTensor()
        case "per_channel":
            return PerChannel()
        case "per_group" if spec.group_size is not None and spec.group_size > 0:
            return PerGroup(spec.group_size)
        case "per_block" if spec.block_size is not None and len(spec.block_size) == 2 and min(spec.block_size) > 0:
            return PerBlock(*spec.block_size)
        case _:
            return None
