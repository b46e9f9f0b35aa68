"""The algorithms that ModelOpt names, for a whole checkpoint or for single layers, and what their tensors mean.

Source: Model-Optimizer `modelopt.torch.export.quant_utils` (`process_layer_quant_config`, `get_quantization_format`).
Exponents of MXFP4 and MXFP8 inputs are such that nothing saturates (`MXFP8QTensor`, `MXFP4QTensor`).
W4A16_AWQ and W4A8_AWQ pack two rows of 4-bit integers into one of bytes, and are refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from fp8load.dtypes import DType
from fp8load.errors import ConfigError, Problem
from fp8load.formats.base import Claim, Claimed, Located, RoleOf
from fp8load.formats.document import flattened
from fp8load.formats.microscaling import MXFP4, MXFP8, mx, nvfp4
from fp8load.scheme import (
    LinearScheme,
    PerBlock,
    PerChannel,
    PerTensor,
    PerToken,
    QuantSpec,
    Role,
    SharedExponent,
    Transform,
)

MIXED = "MIXED_PRECISION"

AWQ = (Transform.PRE_QUANT_SCALE,)
SVDQUANT = (Transform.PRE_QUANT_SCALE, Transform.LOW_RANK_RESIDUAL)
_TENSOR = QuantSpec(dtype=DType.F8_E4M3, granularity=PerTensor())
_FIXED = {
    "FP8": LinearScheme(weight=_TENSOR, input=_TENSOR, input_static=True),
    "FP8_PER_CHANNEL_PER_TOKEN": LinearScheme(
        weight=replace(_TENSOR, granularity=PerChannel()), input=replace(_TENSOR, granularity=PerToken())
    ),
    "FP8_PB_WO": LinearScheme(weight=replace(_TENSOR, granularity=PerBlock(128, 128))),
    "MXFP8": mx(MXFP8, MXFP8, SharedExponent.FIT),
    "MXFP4": mx(MXFP4, MXFP4, SharedExponent.FIT),
    "W4A8_MXFP4_FP8": replace(mx(MXFP4, _TENSOR), input_static=True),
}
"""Algorithms without a number of their own. Blocks of 128 x 128 are FP8_PB_WO's constant: no configuration has it."""


def is_bare_mixed(document: Mapping[str, Any]) -> bool:
    """Whether a configuration says MIXED_PRECISION and nothing on which layer has which algorithm: W4AFP8."""
    flat = flattened(document)
    is_mixed = str(flat.get("quant_algo", "")).upper() == MIXED and flat.get("quant_method") in (None, "modelopt")
    return is_mixed and not {"quantized_layers", "moe_quant_algo", "config_groups"} & flat.keys()


class LayerEntry(BaseModel):
    """One entry of `quantized_layers`. A key that is not known is an error: it may change what the layer means."""

    model_config = ConfigDict(extra="forbid")

    quant_algo: str
    group_size: int | None = None
    has_zero_point: Literal[False] | None = None
    pre_quant_scale: bool | None = None


class Algo(NamedTuple):
    """An algorithm by its name in upper case, and the group that is written beside it; None and 0: its own."""

    name: str
    group_size: int | None = None


def scheme_of(algo: Algo, located: Located, *, quantized_input: bool = True, module: str = "") -> LinearScheme:
    """What an algorithm's layers are. `quantized_input` counts for NVFP4 only. Raises `ConfigError` F8L107."""
    if algo.name in _FIXED:
        return _FIXED[algo.name]
    match algo.name:
        case "NVFP4":
            return nvfp4(divides=False, quantized_input=quantized_input, group=algo.group_size or 16)
        case "NVFP4_AWQ":
            return replace(nvfp4(divides=False, quantized_input=True, group=algo.group_size or 16), transforms=AWQ)
        case "NVFP4_SVD" | "NVFP4_SVDQUANT":
            return replace(nvfp4(divides=False, quantized_input=True, group=algo.group_size or 16), transforms=SVDQUANT)
        case "W4A16_NVFP4":
            return nvfp4(divides=False, quantized_input=False, group=algo.group_size or 16)
        case "W4A8_NVFP4_FP8":
            # The group is 32 by the algorithm's definition; hf_quant_config.json repeats it, config.json does not.
            weight_only = nvfp4(divides=False, quantized_input=False, group=algo.group_size or 32)
            return replace(weight_only, input=_TENSOR, input_static=True)
        case unknown:
            raise ConfigError(Problem(
                code="F8L107", message="quant_algo is not supported by this version", file=located.place, got=unknown,
                expected="FP8, FP8_PER_CHANNEL_PER_TOKEN, FP8_PB_WO, MXFP8, MXFP4, NVFP4, NVFP4_AWQ, NVFP4_SVD, "
                "W4A16_NVFP4, W4A8_NVFP4_FP8, W4A8_MXFP4_FP8", module=module,
                hint="`fp8load inspect --skeleton` still lists what the files hold",
            ))  # fmt: skip


class LayerClaims(NamedTuple):
    """What `quantized_layers` says: of a module, and in all (algorithm, scheme, number of entries)."""

    find: Callable[[str], Claimed | None]
    kinds: tuple[tuple[str, str, int], ...]


def layer_claims(layers: Mapping[str, LayerEntry], located: Located) -> LayerClaims:
    """Claims by the nearest entry: of the module itself, or of a parent. Raises `ConfigError` that names the layer."""
    schemes: dict[Algo, LinearScheme] = {}
    claims: dict[str, Claimed] = {}
    for module, entry in layers.items():
        algo = Algo(entry.quant_algo.upper(), entry.group_size)
        if algo not in schemes:
            schemes[algo] = scheme_of(algo, located, module=module)
        claims[module] = Claimed(scheme=schemes[algo], by=f"quantized_layers {module}", explicit=True)

    def find(module: str) -> Claimed | None:
        name = module
        while name:
            if name in claims:
                return claims[name]
            name = name.rpartition(".")[0]
        return None

    counts = Counter(Algo(entry.quant_algo.upper(), entry.group_size) for entry in layers.values())
    kinds = tuple((algo.name, str(replace(schemes[algo], transforms=())), count) for algo, count in counts.items())
    return LayerClaims(find, kinds)


def input_scales(claim: Callable[[str], Claim]) -> RoleOf:
    """What `input_scale` is, by a module's claim: an FP8 input's static scale, or an NVFP4 input's global scale."""

    def role(module: str) -> Role:
        said = claim(module)
        is_global = isinstance(said, Claimed) and said.scheme.input_global is not None
        return Role.INPUT_GLOBAL_SCALE if is_global else Role.INPUT_SCALE

    return RoleOf((Role.INPUT_SCALE, Role.INPUT_GLOBAL_SCALE), role)
