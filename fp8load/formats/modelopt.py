"""NVIDIA ModelOpt, FP8 per tensor: `quantization_config` of config.json, or hf_quant_config.json.

Source: Model-Optimizer's HF export (0.33 and 0.47 seen). The old form nests everything under `quantization` beside
`producer`, spells the list `exclude_modules` and the cache `kv_cache_quant_algo: "FP8"`; config.json holds it flat,
with `ignore` and `kv_cache_scheme` (a dict; in 0.33, which has no quant_method either, the string "FP8"). Entries are
shell globs.

Tensors: `weight` F8_E4M3, `weight_scale` and `input_scale` F32 [], KV scales `k_proj.k_scale`, `v_proj.v_scale`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from fp8load.dtypes import DType
from fp8load.formats.base import CheckpointFormat, Claim, Claimed, Ignored, Located
from fp8load.formats.document import validated
from fp8load.formats.match import first_cover, glob_or_prefix, substring
from fp8load.scheme import KVScheme, LinearScheme, PerTensor, QuantSpec, Role

NAME = "modelopt"

SUFFIXES: Mapping[str, Role] = {
    "weight_scale": Role.WEIGHT_SCALE,
    "input_scale": Role.INPUT_SCALE,
    "k_scale": Role.K_SCALE,
    "v_scale": Role.V_SCALE,
    "q_scale": Role.Q_SCALE,
}


class ModelOptConfig(BaseModel):
    """The flat form; the nested one is flattened before."""

    model_config = ConfigDict(extra="allow")

    quant_algo: Literal["FP8", "fp8"]
    ignore: list[str] | None = None
    exclude_modules: list[str] | None = None
    kv_cache_quant_algo: Literal["FP8", "fp8"] | None = None
    kv_cache_scheme: dict[str, Any] | Literal["FP8"] | None = None
    config_groups: dict[str, Any] | None = None  # repeats quant_algo in compressed-tensors' words
    group_size: int | None = None
    producer: dict[str, Any] | None = None
    quant_method: str | None = None
    quant_library: str | None = None


def detect(document: Mapping[str, Any]) -> bool:
    """Signed by modelopt, or a quant_algo without any other method's name."""
    producer = document.get("producer")
    if isinstance(producer, Mapping) and producer.get("name") == "modelopt":
        return True
    if "modelopt" in (document.get("quant_method"), document.get("quant_library")):
        return True
    nested = document.get("quantization")
    return isinstance(nested, Mapping) and "quant_algo" in nested


def parse(located: Located) -> CheckpointFormat:
    """The configuration as a value. Raises `ConfigError`."""
    config = validated(ModelOptConfig, Located(place=located.place, document=_flat(located.document)))
    listed = config.ignore if config.ignore is not None else config.exclude_modules
    ignore = tuple(listed or ())
    find = first_cover(ignore, glob_or_prefix)
    spec = QuantSpec(dtype=DType.F8_E4M3, granularity=PerTensor())
    scheme = LinearScheme(weight=spec, input=spec, input_static=True)
    claimed = Claimed(scheme=scheme, by=located.place, explicit=listed is not None)

    def claim(module: str) -> Claim:
        entry = find(module)
        return Ignored(by=entry) if entry is not None else claimed

    has_kv = config.kv_cache_quant_algo is not None or config.kv_cache_scheme is not None
    return CheckpointFormat(
        name=NAME,
        title=f"ModelOpt FP8: {scheme}",
        place=located.place,
        claim=claim,
        suffixes=SUFFIXES,
        kv=KVScheme(dtype=DType.F8_E4M3, granularity=PerTensor(), static=True) if has_kv else None,
        ignore=ignore,
        covers=glob_or_prefix,
        may_cover=substring,
        unknown_keys=tuple(config.model_extra or ()),
    )


def _flat(document: Mapping[str, Any]) -> dict[str, Any]:
    nested = document.get("quantization")
    if not isinstance(nested, Mapping):
        return dict(document)
    return {**{key: value for key, value in document.items() if key != "quantization"}, **nested}
