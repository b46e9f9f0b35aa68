"""`quant_method: auto-round` with `packing_format: auto_round:fp8`: DeepSeek's tensors under another configuration.

Written by intel/auto-round (seen with 0.16): `weight` F8_E4M3 and `weight_scale_inv` BF16 [ceil(N/bn), ceil(K/bk)];
the configuration is repeated in quantization_config.json. Its llm_compressor export is plain compressed-tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fp8load.formats import fp8
from fp8load.formats.base import CheckpointFormat, Located
from fp8load.formats.document import validated

NAME = "auto_round"


class AutoRoundConfig(BaseModel):
    """The keys of auto-round's FP8 export."""

    model_config = ConfigDict(extra="allow", strict=True)

    quant_method: str
    packing_format: Literal["auto_round:fp8"]
    bits: Literal[8]
    data_type: Literal["fp"]
    sym: Literal[True]
    act_bits: int | None = None
    act_data_type: str | None = None
    act_dynamic: bool | None = None
    act_sym: bool | None = None
    act_group_size: int | None = None
    group_size: list[int] | int | None = None
    activation_scheme: Literal["dynamic", "static"]
    weight_block_size: tuple[int, int] | None = Field(default=None, strict=False)
    fmt: Literal["e4m3", "e5m2"] = "e4m3"
    block_name_to_quantize: str | list[str] | None = None
    enable_quanted_input: bool | None = None
    autoround_version: str | None = None
    modules_to_not_convert: list[str] | None = None


def detect(document: Mapping[str, Any]) -> bool:
    """quant_method is auto-round."""
    return document.get("quant_method") == "auto-round"


def parse(located: Located) -> CheckpointFormat:
    """The configuration as a value. Raises `ConfigError`."""
    config = validated(AutoRoundConfig, located)
    same = fp8.Fp8Config(
        quant_method="fp8",
        activation_scheme=config.activation_scheme,
        weight_block_size=config.weight_block_size,
        modules_to_not_convert=config.modules_to_not_convert,
        fmt=config.fmt,
        **(config.model_extra or {}),
    )
    return fp8.build(same, located, name=NAME)
