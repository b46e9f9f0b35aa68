"""`quant_method: fbgemm_fp8`: Meta's Llama-3.1-405B-FP8, and transformers' FbgemmFp8Config.

Source: transformers `quantizers/quantizer_fbgemm_fp8.py`. Tensors: `weight` F8_E4M3 [N, K], `weight_scale` F32 [N, 1],
a multiplier. Inputs are quantized per token while running; `activation_scale_ub` bounds the largest value that they may
have, and is nowhere stored as a tensor. The list names whole modules; without one the head is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from fp8load.dtypes import DType
from fp8load.formats.base import CheckpointFormat, Claim, Claimed, Ignored, Located
from fp8load.formats.document import validated
from fp8load.formats.match import component_run, first_cover
from fp8load.scheme import LinearScheme, PerChannel, PerToken, QuantSpec, Role

NAME = "fbgemm"


class FbgemmConfig(BaseModel):
    """The keys of the configuration."""

    model_config = ConfigDict(extra="allow")

    quant_method: str
    activation_scale_ub: float = Field(gt=0)
    modules_to_not_convert: list[str] | None = None


def detect(document: Mapping[str, Any]) -> bool:
    """quant_method is fbgemm_fp8."""
    return document.get("quant_method") == "fbgemm_fp8"


def parse(located: Located) -> CheckpointFormat:
    """The configuration as a value. Raises `ConfigError`."""
    config = validated(FbgemmConfig, located)
    ignore = tuple(config.modules_to_not_convert or ())
    find = first_cover(ignore, component_run)
    scheme = LinearScheme(
        weight=QuantSpec(dtype=DType.F8_E4M3, granularity=PerChannel()),
        input=QuantSpec(dtype=DType.F8_E4M3, granularity=PerToken(), upper_bound=config.activation_scale_ub),
    )
    claimed = Claimed(scheme=scheme, by=located.place, explicit=bool(ignore))

    def claim(module: str) -> Claim:
        entry = find(module)
        return Ignored(by=entry) if entry is not None else claimed

    return CheckpointFormat(
        name=NAME,
        title=f"fbgemm_fp8: {scheme}",
        place=located.place,
        claim=claim,
        suffixes={"weight_scale": Role.WEIGHT_SCALE},
        ignore=ignore,
        covers=component_run,
        unknown_keys=tuple(config.model_extra or ()),
    )
