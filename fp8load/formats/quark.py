"""`quant_method: quark`: AMD Quark's export: FP8, MXFP4, MXFP6, MXFP8 and NVFP4, also mixed by layer.

Source: amd-quark's JSON export (0.13 seen). `global_quant_config` says how `weight` and `input_tensors` are quantized:
one specification, or for NVFP4 a list of two (FP4 in groups of 16, and the scale of their scales). `exclude` lists full
names or shell globs; the first glob of `layer_quant_config` that matches counts before the class in
`layer_type_quant_config` ("Linear"), and that before the global one. Tensors: `weight_scale` BF16 [] / [N], a grid
where `qscheme` is per_block, U8 exponents, or F8_E4M3; `weight_scale_2` and `input_scale_2` F32 [], which multiply;
`input_scale` where inputs are static; KV scales `k_proj.output_scale`. MXFP6 (fp6_e3m2, fp6_e2m3): `weight` U8
[N, K * 3 / 4], from Quark 0.10 on a stream of bits, lowest first (`Pack_fp6` of quark.torch.utils.pack); 0.9 packed the
upper two bits of four elements and the lower four apart.

What `exclude` lists was left as it was: BF16, or, where Quark converted a checkpoint that was block FP8
(`quantize_model_per_safetensor`), that, with `weight_scale_inv` renamed to `weight_scale` (vllm#54556); nothing holds
the size of its blocks, which is DeepSeek's 128 x 128. `algo_config` names what was done to the weights before. AWQ,
SmoothQuant and GPTQ leave plain weights behind (their factors are a part of the layer before); so do the rotations r1
and r2, unless r1 is `online`; r3 and r4 have to be done while running.

`scale_calculation_mode` of `input_tensors` says how the exponent of a group is chosen while running (`even`, which is
what Quark does without the key, `floor` or `ceil`: quark.torch's ObserverBase.get_scale); stored weights are not
concerned.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from fp8load.dtypes import DType
from fp8load.errors import ConfigError, Problem
from fp8load.formats.base import CheckpointFormat, Claim, Claimed, Ignored, Located
from fp8load.formats.document import validated
from fp8load.formats.match import first_cover, glob_or_prefix, is_embedding
from fp8load.formats.microscaling import MXFP4, MXFP6_E2M3, MXFP6_E3M2, MXFP8, mx, nvfp4
from fp8load.scheme import (
    Granularity,
    KVScheme,
    LinearScheme,
    PerBlock,
    PerChannel,
    PerGroup,
    PerTensor,
    PerToken,
    QuantSpec,
    Role,
    SharedExponent,
)

NAME = "quark"

SUFFIXES: Mapping[str, Role] = {
    "weight_scale": Role.WEIGHT_SCALE,
    "weight_scale_inv": Role.WEIGHT_SCALE,
    "weight_scale_2": Role.WEIGHT_GLOBAL_SCALE,
    "input_scale": Role.INPUT_SCALE,
    "input_scale_2": Role.INPUT_GLOBAL_SCALE,
}

EXPONENTS = {
    None: SharedExponent.ELEMENT,
    "even": SharedExponent.ELEMENT,
    "floor": SharedExponent.FLOOR,
    "ceil": SharedExponent.CEIL,
}
"""`scale_calculation_mode`, and what it means."""

MX_SPECS = {"mxfp4": MXFP4, "mxfp6_e3m2": MXFP6_E3M2, "mxfp6_e2m3": MXFP6_E2M3, "mxfp8": MXFP8}

ELEMENTS = {"fp8_e4m3": DType.F8_E4M3, "fp8_e5m2": DType.F8_E5M2}

FOLDED = frozenset({"awq", "smooth", "smoothquant", "autosmoothquant", "gptq", "gptaq", "qronos"})
"""Algorithms after which nothing remains to be done: factors went into the layer before, or only rounding changed."""

BASE = LinearScheme(
    weight=QuantSpec(dtype=DType.F8_E4M3, granularity=PerBlock(128, 128)),
    input=QuantSpec(dtype=DType.F8_E4M3, granularity=PerGroup(128)),
)
"""What an excluded module is where it is stored in FP8."""

LINEAR = "Linear"
"""The one class of `layer_type_quant_config` that holds weights of linear layers."""

FP6_SINCE = (0, 10)
"""The first Quark whose 6-bit floats are packed as they are read here."""

KV = KVScheme(dtype=DType.F8_E4M3, granularity=PerTensor(), static=True)


class Spec(BaseModel):
    """How one tensor is quantized; keys of calibration and of integer schemes are left alone."""

    model_config = ConfigDict(extra="allow")

    dtype: str
    qscheme: str
    group_size: int | None = None
    block_size: list[int] | None = None
    is_dynamic: bool | None = None
    scale_format: str | None = None
    scale_calculation_mode: str | None = None


class Algorithm(BaseModel):
    """An entry of algo_config; its other keys say how it was calibrated."""

    model_config = ConfigDict(extra="allow")

    name: str
    online_r1_rotation: bool | None = None
    r3: bool | None = None
    r4: bool | None = None

    @property
    def online(self) -> str:
        """What of it has to be done while running, or is not known; nothing for what weights hold already."""
        if self.name in FOLDED:
            return ""
        parts = {"online_r1_rotation": self.online_r1_rotation, "r3": self.r3, "r4": self.r4}
        found = ", ".join(key for key, is_on in parts.items() if is_on is not False)
        return found if self.name == "rotation" else self.name


class LayerConfig(BaseModel):
    """QLayerConfig: the operands of a layer."""

    model_config = ConfigDict(extra="allow")

    weight: Spec | list[Spec]
    input_tensors: Spec | list[Spec] | None = None
    output_tensors: Any = None


class QuarkConfig(BaseModel):
    """The keys of the configuration."""

    model_config = ConfigDict(extra="allow")

    quant_method: str
    global_quant_config: LayerConfig
    layer_quant_config: dict[str, LayerConfig] | None = None
    layer_type_quant_config: dict[str, LayerConfig] | None = None
    kv_cache_quant_config: dict[str, Any] | None = None
    exclude: list[str] | None = None
    export: dict[str, Any] | None = None
    algo_config: list[Algorithm] | None = None
    quant_mode: str | None = None
    softmax_quant_spec: Any = None
    kv_cache_post_rope: bool | None = None
    version: str | None = None


def detect(document: Mapping[str, Any]) -> bool:
    """quant_method is quark."""
    return document.get("quant_method") == "quark"


def parse(located: Located) -> CheckpointFormat:
    """The configuration as a value. Raises `ConfigError`."""
    config = validated(QuarkConfig, located)
    online = next((f"{algo.name}: {algo.online}" for algo in config.algo_config or () if algo.online), None)
    if online is not None:
        raise _unsupported(located, "algo_config", "algorithms that leave plain weights behind", online)
    by_type = config.layer_type_quant_config or {}
    other = next((kind for kind in by_type if kind != LINEAR), None)
    if other is not None:
        raise _unsupported(located, "layer_type_quant_config", "Linear alone", other)
    layers = (config.global_quant_config, *by_type.values(), *(config.layer_quant_config or {}).values())
    if any(_kind(layer.weight).startswith("mxfp6") for layer in layers) and _version(config) < FP6_SINCE:
        expected = "0.10 or newer: before, 6-bit floats were packed in another way"
        raise _unsupported(located, "version", expected, str(config.version))
    ignore = tuple(config.exclude or ())
    find = first_cover(ignore, glob_or_prefix)
    base = Claimed(scheme=BASE, by=f"{located.place} exclude", explicit=False)
    claims = [
        (pattern, Claimed(scheme=_scheme(layer, located, f"layer_quant_config {pattern}"), by=pattern, explicit=True))
        for pattern, layer in (config.layer_quant_config or {}).items()
    ]
    everywhere = Claimed(
        scheme=_scheme(config.global_quant_config, located, "global_quant_config"),
        by=located.place,
        explicit=config.exclude is not None,
    )
    linear = everywhere
    if LINEAR in by_type:
        scheme = _scheme(by_type[LINEAR], located, f"layer_type_quant_config {LINEAR}")
        linear = replace(everywhere, scheme=scheme, by=f"layer_type_quant_config {LINEAR}")

    def claim(module: str) -> Claim:
        entry = find(module)
        if entry is not None:
            return Ignored(by=entry, base=base)
        otherwise = everywhere if is_embedding(module) else linear
        return next((claimed for pattern, claimed in claims if fnmatch.fnmatchcase(module, pattern)), otherwise)

    return CheckpointFormat(
        name=NAME,
        title="Quark: " + "; ".join(dict.fromkeys(str(c.scheme) for c in (linear, *(c for _, c in claims)))),
        place=located.place,
        claim=claim,
        suffixes=SUFFIXES,
        # Before 0.10 only the export's settings said which projections have a scale for the cache.
        kv=KV if config.kv_cache_quant_config or (config.export or {}).get("kv_cache_group") else None,
        ignore=ignore,
        covers=glob_or_prefix,
        unknown_keys=tuple(config.model_extra or ()),
    )


def _version(config: QuarkConfig) -> tuple[int, ...]:
    """Major and minor number of the Quark that wrote the checkpoint; (0, 0) where it does not say it."""
    numbers = re.match(r"(\d+)\.(\d+)", config.version or "")
    return tuple(int(number) for number in numbers.groups()) if numbers else (0, 0)


def _unsupported(located: Located, key: str, expected: str, got: str) -> ConfigError:
    return ConfigError(Problem(
        code="F8L107", message=f"{key} is not supported by this version", file=located.place, expected=expected,
        got=got,        hint="`fp8load inspect --tensors` still lists what the files hold",
    ))  # fmt: skip


def _kind(spec: Spec | list[Spec] | None) -> str:
    """What an operand is quantized to, in one word."""
    if spec is None:
        return "none"
    if isinstance(spec, list):
        inner = [f"{part.dtype} {part.qscheme} {part.group_size}" for part in spec]
        return "nvfp4" if inner == ["fp4 per_group 16", "fp8_e4m3 per_tensor None"] else " then ".join(inner)
    if spec.scale_format == "e8m0" and spec.group_size == 32:
        words = {"fp4": "mxfp4", "fp6_e3m2": "mxfp6_e3m2", "fp6_e2m3": "mxfp6_e2m3", "fp8_e4m3": "mxfp8"}
        return words.get(spec.dtype, spec.dtype)
    return f"{spec.dtype} {spec.qscheme}"


def _scheme(layer: LayerConfig, located: Located, key: str) -> LinearScheme:
    weight, inputs = _kind(layer.weight), _kind(layer.input_tensors)
    if weight == "nvfp4" and inputs in ("nvfp4", "none"):
        return nvfp4(divides=False, quantized_input=inputs == "nvfp4")
    if weight in MX_SPECS and (inputs in MX_SPECS or inputs == "none"):
        return mx(MX_SPECS[weight], MX_SPECS.get(inputs), _exponent(layer.input_tensors, located, key))
    spec = layer.weight if isinstance(layer.weight, Spec) else None
    granularity = _granularity(spec) if spec is not None and spec.dtype in ELEMENTS else None
    if spec is None or granularity is None or isinstance(granularity, PerGroup):
        expected = "FP8 per tensor, channel or block, MXFP4, MXFP6, MXFP8 or NVFP4"
        raise _unsupported(located, f"{key}.weight", expected, weight)
    stored = QuantSpec(dtype=ELEMENTS[spec.dtype], granularity=granularity)
    if layer.input_tensors is None:
        return LinearScheme(weight=stored)
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
        raise _unsupported(located, f"{key}.input_tensors", expected, inputs)
    of_rows: Granularity = PerToken() if activation == PerChannel() else activation
    return LinearScheme(
        weight=stored, input=QuantSpec(dtype=ELEMENTS[given.dtype], granularity=of_rows), input_static=static
    )


def _exponent(inputs: Spec | list[Spec] | None, located: Located, key: str) -> SharedExponent:
    mode = inputs.scale_calculation_mode if isinstance(inputs, Spec) else None
    if mode not in EXPONENTS:
        expected = ", ".join(sorted(filter(None, EXPONENTS)))
        raise _unsupported(located, f"{key}.input_tensors.scale_calculation_mode", expected, str(mode))
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
