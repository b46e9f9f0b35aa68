"""`quant_method: auto-round`: its own FP8 export, and MXFP4 under compressed-tensors' names.

Written by intel/auto-round (seen with 0.16); the configuration is repeated in quantization_config.json.
packing_format "auto_round:fp8": DeepSeek's tensors, `weight` F8_E4M3 and `weight_scale_inv` BF16 [ceil(N/bn),
ceil(K/bk)]. "auto_round:llm_compressor" with data_type mx_fp: `weight_packed` U8 [N, K/2], `weight_scale` U8 [N, K/32].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fp8load.formats import compressed_tensors, fp8
from fp8load.formats.base import CheckpointFormat, Claim, Claimed, Located, Unclaimed
from fp8load.formats.document import validated
from fp8load.formats.microscaling import MXFP4, mx

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


class AutoRoundMxConfig(BaseModel):
    """The keys of auto-round's MXFP4 export."""

    model_config = ConfigDict(extra="allow", strict=True)

    quant_method: str
    packing_format: Literal["auto_round:llm_compressor"]
    bits: Literal[4]
    data_type: Literal["mx_fp"]
    group_size: Literal[32]
    sym: Literal[True]
    act_bits: Literal[4, 16] = 16
    act_data_type: str | None = None
    act_dynamic: bool | None = None
    act_group_size: int | None = None
    act_sym: bool | None = None
    block_name_to_quantize: str
    enable_quanted_input: bool | None = None
    autoround_version: str | None = None


def detect(document: Mapping[str, Any]) -> bool:
    """quant_method is auto-round."""
    return document.get("quant_method") == "auto-round"


def parse(located: Located) -> CheckpointFormat:
    """The configuration as a value. Raises `ConfigError`."""
    if located.document.get("packing_format") == "auto_round:llm_compressor":
        return _mx(validated(AutoRoundMxConfig, located), located)
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


def _mx(config: AutoRoundMxConfig, located: Located) -> CheckpointFormat:
    """MXFP4: everything under `block_name_to_quantize`, nothing else."""
    scheme = mx(MXFP4, MXFP4 if config.act_bits == 4 else None)
    claimed = Claimed(scheme=scheme, by=f"block_name_to_quantize {config.block_name_to_quantize}", explicit=True)

    def claim(module: str) -> Claim:
        return claimed if module.startswith(f"{config.block_name_to_quantize}.") else Unclaimed()

    return CheckpointFormat(
        name=NAME,
        title=f"auto-round: {scheme}",
        place=located.place,
        claim=claim,
        suffixes=compressed_tensors.SUFFIXES,
        unknown_keys=tuple(config.model_extra or ()),
    )
