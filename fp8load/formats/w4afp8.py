"""W4AFP8: experts of 4-bit integers with FP8 inputs in a model that else is DeepSeek's block FP8.

Source: SGLang's `W4AFp8Config`; Barrrrry/DeepSeek-R1-W4AFP8, made by NVIDIA ModelOpt. The configuration says
`quant_algo: MIXED_PRECISION` and nothing else, in hf_quant_config.json, or `quant_method: w4afp8`; everything that it
does not say is the format's constant. Experts: `weight` I8 [N, K/2], two integers of -8 to 7 in a byte, the first one
low, in two's complement; `weight_scale_inv` BF16 or F32 [N, K/128], which multiplies; `input_scale`, one number for a
static FP8 input. All other matrices: `weight` F8_E4M3 [N, K], `weight_scale_inv` F32 [ceil(N/128), ceil(K/128)], inputs
quantized in groups of 128 while running. Routers, norms and embeddings are not quantized, and listed nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from fp8load.dtypes import DType
from fp8load.formats.base import CheckpointFormat, Claim, Claimed, Ignored, Located
from fp8load.formats.document import flattened, validated
from fp8load.formats.match import component_run, first_cover
from fp8load.formats.microscaling import PACKED
from fp8load.formats.modelopt_algos import is_bare_mixed
from fp8load.scheme import LinearScheme, PerBlock, PerGroup, PerTensor, QuantSpec, Role

NAME = "w4afp8"

SUFFIXES: Mapping[str, Role] = {"weight_scale_inv": Role.WEIGHT_SCALE, "input_scale": Role.INPUT_SCALE}

GROUP = PerGroup(128)
DENSE = LinearScheme(
    weight=QuantSpec(dtype=DType.F8_E4M3, granularity=PerBlock(128, 128)),
    input=QuantSpec(dtype=DType.F8_E4M3, granularity=GROUP),
)
EXPERTS = LinearScheme(
    weight=QuantSpec(dtype=DType.I4, granularity=GROUP),
    input=QuantSpec(dtype=DType.F8_E4M3, granularity=PerTensor()),
    input_static=True,
    storage=PACKED,
)


class W4AFp8Config(BaseModel):
    """What such a configuration may hold. Any other key is an error: it might say that it is something else."""

    model_config = ConfigDict(extra="forbid")

    quant_method: Literal["w4afp8", "modelopt"] | None = None
    quant_algo: Literal["MIXED_PRECISION"] | None = None
    activation_scheme: Literal["static", "dynamic"] | None = None
    weight_block_size: tuple[Literal[128], Literal[128]] | None = None
    group_size: Literal[128] | None = None
    ignored_layers: list[str] | None = None
    kv_cache_quant_algo: None = None
    producer: dict[str, Any] | None = None


def detect(document: Mapping[str, Any]) -> bool:
    """The method by its name, or MIXED_PRECISION without a word on which layers have which algorithm."""
    return document.get("quant_method") == "w4afp8" or is_bare_mixed(document)


def parse(located: Located) -> CheckpointFormat:
    """The configuration as a value. Raises `ConfigError`."""
    config = validated(W4AFp8Config, replace(located, document=flattened(located.document)))
    ignore = tuple(config.ignored_layers or ())
    find = first_cover(ignore, component_run)
    claimed = Claimed(scheme=DENSE, alternatives=(EXPERTS,), by=f"{located.place} (W4AFP8)", explicit=False)

    def claim(module: str) -> Claim:
        entry = find(module)
        return claimed if entry is None else Ignored(by=entry)

    return CheckpointFormat(
        name=NAME,
        title="W4AFP8: int4 experts, groups of 128, FP8 input static; e4m3 weights, 128 x 128 blocks, elsewhere",
        place=located.place,
        claim=claim,
        suffixes=SUFFIXES,
        ignore=ignore,
        covers=component_run,
    )
