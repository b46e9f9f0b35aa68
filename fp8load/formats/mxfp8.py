"""`quant_method: mxfp8`: MiniMax-M3, and what slime and SGLang write for training with weight sync.

Source: MiniMax-M3-MXFP8 and readers' tests of it; SGLang's Fp8Config, which reads any quant_method that contains
"mxfp8" as `fp8` with blocks of [1, 32]. Keys are those of `fp8.py`; weight_block_size is [1, 32] by definition.
Tensors: `weight` F8_E4M3 [N, K], `weight_scale_inv` (or `weight_scale`) U8 or F8_E8M0 [N, K/32], exponents: real =
stored * 2 ** (byte - 127). The suffix is that of 128 x 128 float scales; dtype and shape say which it is. Exponents of
inputs are rounded up, as CUDA's own conversion to E8M0 does for amax / 448.

What files showed: MiniMax-M3 has no `scale_fmt`; its list says `lm_head` and `model.embed_tokens` where files say
`language_model.lm_head` and `language_model.model.embed_tokens`, and the routers are F32. MiniMax-M3.1 adds
`moe_quant_algo` for experts in NVFP4, which this version does not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from fp8load.formats import fp8
from fp8load.formats.base import CheckpointFormat, Claim, Claimed, Located
from fp8load.formats.document import validated
from fp8load.formats.microscaling import MXFP8, mx
from fp8load.scheme import SharedExponent

NAME = "mxfp8"


def _one_by_32(value: Any) -> Any:
    if value is not None and list(value if isinstance(value, list | tuple) else ()) != [1, 32]:
        raise ValueError("weight_block_size [1, 32], which is what mxfp8 means; quant_method fp8 for other blocks")
    return (1, 32)


class Mxfp8Config(fp8.Fp8Config):
    """The keys of `quantization_config`."""

    activation_scheme: Literal["dynamic"] = "dynamic"
    weight_block_size: Annotated[tuple[int, int], BeforeValidator(_one_by_32)] = (1, 32)
    fmt: Literal["e4m3", "float8_e4m3fn"] = "e4m3"
    scale_fmt: Literal["ue8m0"] = "ue8m0"
    moe_quant_algo: None = None


def detect(document: Mapping[str, Any]) -> bool:
    """quant_method is mxfp8."""
    return document.get("quant_method") == "mxfp8"


def parse(located: Located) -> CheckpointFormat:
    """The configuration as a value. Raises `ConfigError`."""
    config = validated(Mxfp8Config, located)
    base = fp8.build(config, located, name=NAME)
    scheme = mx(MXFP8, MXFP8, SharedExponent.FIT)

    def claim(module: str) -> Claim:
        said = base.claim(module)
        return replace(said, scheme=scheme, alternatives=()) if isinstance(said, Claimed) else said

    return replace(base, title=f"mxfp8: {scheme}", claim=claim)
