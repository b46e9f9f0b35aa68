"""NVIDIA ModelOpt, one algorithm for all layers or one for each: `quantization_config` of config.json, or
hf_quant_config.json.

Source: Model-Optimizer's HF export (0.33 and 0.47 seen). The old form nests everything under `quantization` beside
`producer`, spells the list `exclude_modules` and the cache `kv_cache_quant_algo: "FP8"`; config.json holds it flat,
with `ignore` and `kv_cache_scheme` (a dict; in 0.33, which has no quant_method either, the string "FP8"). Entries are
shell globs. MIXED_PRECISION lists `quantized_layers: {module: {quant_algo, group_size}}`, full names; an entry stands
for everything below it too (`mlp.experts`), the nearest one counts, and what none covers is not quantized.

FP8: `weight` F8_E4M3, `weight_scale` and `input_scale` F32 [], KV scales `k_proj.k_scale`, `v_proj.v_scale`. PB_WO:
`weight_scale` F32 [bo, 1, bi, 1]. NVFP4: `weight` U8 [N, K/2], `weight_scale` F8_E4M3 [N, K/16], `weight_scale_2` and
`input_scale` F32 [], which multiply. MX: `weight_scale` U8 [N, K/32], exponents. NVFP4_AWQ: NVFP4 with
`pre_quant_scale` BF16 [K], a factor of the input, where it could not be folded into the layer before. NVFP4_SVD: this,
and a residual `weight_quantizer._svdquant_lora_a` [r, K], `_b` [N, r] (diffusers' export: `svdquant_lora_a`, `_b`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from fp8load.dtypes import DType
from fp8load.formats.base import CheckpointFormat, Claim, Claimed, Ignored, Located, Unclaimed
from fp8load.formats.document import flattened, validated
from fp8load.formats.match import first_cover, glob_or_prefix, substring
from fp8load.formats.modelopt_algos import (
    MIXED,
    Algo,
    LayerEntry,
    input_scales,
    is_bare_mixed,
    layer_claims,
    scheme_of,
)
from fp8load.scheme import KVScheme, PerTensor, Role

NAME = "modelopt"

SUFFIXES: Mapping[str, Role] = {
    "weight_scale": Role.WEIGHT_SCALE,
    "weight_scale_2": Role.WEIGHT_GLOBAL_SCALE,
    "input_scale": Role.INPUT_SCALE,
    "pre_quant_scale": Role.PRE_QUANT_SCALE,
    "svdquant_lora_a": Role.LOW_RANK_A,
    "svdquant_lora_b": Role.LOW_RANK_B,
}

UNLISTED = "the configuration says MIXED_PRECISION and not which layer has which algorithm"


class ModelOptConfig(BaseModel):
    """The flat form; the nested one is flattened before."""

    model_config = ConfigDict(extra="allow")

    quant_algo: str | None  # null: only the KV cache is quantized
    quantized_layers: dict[str, LayerEntry] | None = None
    ignore: list[str] | None = None
    exclude_modules: list[str] | None = None
    kv_cache_quant_algo: Literal["FP8", "fp8"] | None = None
    kv_cache_scheme: dict[str, Any] | Literal["FP8"] | None = None
    config_groups: dict[str, Any] | None = None  # repeats quant_algo in compressed-tensors' words
    group_size: int | None = None
    has_zero_point: Literal[False] | None = None
    pre_quant_scale: bool | None = None
    lora_rank: int | None = None
    producer: dict[str, Any] | None = None
    quant_method: Literal["modelopt", "modelopt_fp8", "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed"] | None = None
    quant_library: str | None = None


def detect(document: Mapping[str, Any]) -> bool:
    """Signed by modelopt, or a quant_algo without any method's name; no other method's base, and not W4AFP8."""
    if document.get("quant_method") == "fp8" or is_bare_mixed(document):
        return False
    producer = document.get("producer")
    if isinstance(producer, Mapping) and producer.get("name") == "modelopt":
        return True
    names = (document.get("quant_method"), document.get("quant_library"))
    if any(isinstance(name, str) and name.startswith("modelopt") for name in names):
        return True
    nested = document.get("quantization")
    if isinstance(nested, Mapping) and "quant_algo" in nested:
        return True
    return "quant_algo" in document and document.get("quant_method") is None


def parse(located: Located) -> CheckpointFormat:
    """The configuration as a value. Raises `ConfigError`."""
    config = validated(ModelOptConfig, replace(located, document=flattened(located.document)))
    listed = config.ignore if config.ignore is not None else config.exclude_modules
    ignore = tuple(listed or ())
    find = first_cover(ignore, glob_or_prefix)
    algo = (config.quant_algo or "").upper()
    uniform: Claim = Unclaimed()
    if config.quant_algo is None:
        title = "weights as they are"
    elif algo == MIXED:
        layers = layer_claims(config.quantized_layers or {}, located)
        silent = Unclaimed(because="" if config.quantized_layers else UNLISTED)
        title = "; ".join(f"{name} {kind} x {count}" for name, kind, count in layers.kinds) or "unknown layers"
    else:
        inputs = _quantizes_inputs(config)
        scheme = scheme_of(Algo(algo, config.group_size), located, quantized_input=inputs)
        uniform = Claimed(scheme=scheme, by=located.place, explicit=listed is not None)
        title = str(replace(scheme, transforms=()))

    def said(module: str) -> Claim:
        return uniform if algo != MIXED else layers.find(module) or silent

    def claim(module: str) -> Claim:
        entry = find(module)
        return Ignored(by=entry) if entry is not None else said(module)

    has_kv = config.kv_cache_quant_algo is not None or config.kv_cache_scheme is not None
    return CheckpointFormat(
        name=NAME,
        title=f"ModelOpt {algo or 'KV cache'}: {title}",
        place=located.place,
        claim=claim,
        suffixes=SUFFIXES,
        by_module={"input_scale": input_scales(said)},
        kv=KVScheme(dtype=DType.F8_E4M3, granularity=PerTensor(), static=True) if has_kv else None,
        split=split,
        ignore=ignore,
        covers=glob_or_prefix,
        may_cover=substring,
        unknown_keys=tuple(config.model_extra or ()),
    )


def split(name: str) -> tuple[str, str]:
    """Module and suffix; the quantizer that holds a residual is a part of the module."""
    base, _, last = name.rpartition(".")
    if base.endswith(".weight_quantizer"):
        return base.removesuffix(".weight_quantizer"), last.removeprefix("_")
    return base, last


def _quantizes_inputs(config: ModelOptConfig) -> bool:
    """NVFP4 is weight-only where every group says that it has no input activations."""
    groups = [group for group in (config.config_groups or {}).values() if isinstance(group, Mapping)]
    return not groups or any(group.get("input_activations") is not None for group in groups)
