"""`quant_method: quark`: AMD Quark's export: FP8, int4 on FP8, MXFP4, MXFP6, MXFP8 and NVFP4, also mixed by layer.

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

FP8 and then int4 ("progressive", W4A8): `weight` I32 [N, K / 8], eight integers of -8 to 7 in a word, reordered (lowest
first 0, 2, 4, 6, 1, 3, 5, 7) unless `pack_method` is "order"; real = code * `weight_scale_2` [N] * `weight_scale` [],
both F32. `weight_zero_point_2` I32 [N / 8] is zeros where integers are symmetric, and others are refused.

`scale_calculation_mode` of `input_tensors` says how the exponent of a group is chosen while running (`even`, which is
what Quark does without the key, `floor` or `ceil`: quark.torch's ObserverBase.get_scale); stored weights are not
concerned.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from fp8load.dtypes import DType
from fp8load.formats.base import CheckpointFormat, Claim, Claimed, Ignored, Located, RoleOf
from fp8load.formats.document import validated
from fp8load.formats.match import checked, exact_or_regex, first_cover, glob_or_prefix, is_embedding
from fp8load.formats.quark_operands import LayerConfig, kind_of, scheme_of, unsupported
from fp8load.scheme import (
    KVScheme,
    LinearScheme,
    PerBlock,
    PerGroup,
    PerTensor,
    QuantSpec,
    Role,
)

NAME = "quark"

SUFFIXES: Mapping[str, Role] = {
    "weight_scale": Role.WEIGHT_SCALE,
    "weight_scale_inv": Role.WEIGHT_SCALE,
    "weight_scale_2": Role.WEIGHT_GLOBAL_SCALE,
    "input_scale": Role.INPUT_SCALE,
    "input_scale_2": Role.INPUT_GLOBAL_SCALE,
}

STAGES = {"weight_scale": Role.WEIGHT_GLOBAL_SCALE, "weight_scale_2": Role.WEIGHT_SCALE}
"""What the scales of two stages are, where the second is the finer one; in NVFP4 it is the other way round."""

NO_ZERO_POINTS = {"weight_zero_point_2": "the integers are symmetric, so that their zero points are zeros"}

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
    _refuse(config, located)
    by_type = config.layer_type_quant_config or {}
    ignore = tuple(config.exclude or ())
    find = first_cover(checked(ignore, located.place), covers)
    base = Claimed(scheme=BASE, by=f"{located.place} exclude", explicit=False)
    claims = [
        (pattern, Claimed(scheme=scheme_of(layer, located, f"layer_quant_config {pattern}"), by=pattern, explicit=True))
        for pattern, layer in (config.layer_quant_config or {}).items()
    ]
    everywhere = Claimed(
        scheme=scheme_of(config.global_quant_config, located, "global_quant_config"),
        by=located.place,
        explicit=config.exclude is not None,
    )
    linear = everywhere
    if LINEAR in by_type:
        scheme = scheme_of(by_type[LINEAR], located, f"layer_type_quant_config {LINEAR}")
        linear = replace(everywhere, scheme=scheme, by=f"layer_type_quant_config {LINEAR}")

    def claim(module: str) -> Claim:
        entry = find(module)
        if entry is not None:
            return Ignored(by=entry, base=base)
        otherwise = everywhere if is_embedding(module) else linear
        return next((claimed for pattern, claimed in claims if fnmatch.fnmatchcase(module, pattern)), otherwise)

    in_stages = any(one.scheme.weight.dtype is DType.I4 for one in (everywhere, linear, *(c for _, c in claims)))
    return CheckpointFormat(
        name=NAME,
        title="Quark: " + "; ".join(dict.fromkeys(str(c.scheme) for c in (linear, *(c for _, c in claims)))),
        place=located.place,
        claim=claim,
        suffixes=SUFFIXES,
        by_module={suffix: _stage(suffix, claim) for suffix in STAGES} if in_stages else {},
        unused=NO_ZERO_POINTS if in_stages else {},
        # Before 0.10 only the export's settings said which projections have a scale for the cache.
        kv=KV if config.kv_cache_quant_config or (config.export or {}).get("kv_cache_group") else None,
        ignore=ignore,
        covers=covers,
        unknown_keys=tuple(config.model_extra or ()),
    )


def covers(entry: str, module: str) -> bool:
    """Whether an entry of `exclude` covers a module: a glob or a name, or `re:` and a regular expression (vLLM)."""
    return exact_or_regex(entry, module) if entry.startswith("re:") else glob_or_prefix(entry, module)


def _refuse(config: QuarkConfig, located: Located) -> None:
    """Raise `ConfigError` for what this version does not read."""
    online = next((f"{algo.name}: {algo.online}" for algo in config.algo_config or () if algo.online), None)
    if online is not None:
        raise unsupported(located, "algo_config", "algorithms that leave plain weights behind", online)
    by_type = config.layer_type_quant_config or {}
    other = next((kind for kind in by_type if kind != LINEAR), None)
    if other is not None:
        raise unsupported(located, "layer_type_quant_config", "Linear alone", other)
    layers = (config.global_quant_config, *by_type.values(), *(config.layer_quant_config or {}).values())
    if any(kind_of(layer.weight).startswith("mxfp6") for layer in layers) and _version(config) < FP6_SINCE:
        expected = "0.10 or newer: before, 6-bit floats were packed in another way"
        raise unsupported(located, "version", expected, str(config.version))


def _version(config: QuarkConfig) -> tuple[int, ...]:
    """Major and minor number of the Quark that wrote the checkpoint; (0, 0) where it does not say it."""
    numbers = re.match(r"(\d+)\.(\d+)", config.version or "")
    return tuple(int(number) for number in numbers.groups()) if numbers else (0, 0)


def _stage(suffix: str, claim: Callable[[str], Claim]) -> RoleOf:
    """What a scale of a weight is, by the module's claim: of the last stage, or of the first."""

    def role(module: str) -> Role:
        said = claim(module)
        in_stages = isinstance(said, Claimed) and said.scheme.weight.dtype is DType.I4
        return STAGES[suffix] if in_stages else SUFFIXES[suffix]

    return RoleOf(tuple(STAGES.values()), role)
