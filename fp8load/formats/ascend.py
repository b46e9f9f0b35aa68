"""Huawei Ascend: msmodelslim's `quant_model_description.json`, and `quant_method: ascend` in config.json.

Source: msmodelslim's AscendV1 saver, which writes tensors and the description together; vllm-ascend, which reads them;
the configuration and tensors of Qwen3.8-Flash-Next-MXFP4. The description is one object: the name of every tensor with
the type that its module is stored in ("FLOAT" for unquantized), beside a few keys about the file. It may also stand
inside `quantization_config`, which wins where both name a tensor.

Types that are read, all of groups of 32 along a row with `weight_scale` U8 [N, K/32], bytes of exponents:
  W4A4_MXFP4, W4A8_MXFP, W4A16_MXFP4    `weight` U8 [N, K/2], two E2M1 floats in a byte, the even one low
  W8A8_MXFP8                            `weight` F8_E4M3 [N, K]
Integers (W8A8, W4A8_DYNAMIC), two levels (W4A4_MXFP4_DUALSCALE) and offsets (WFP8AFP8_DYNAMIC) are refused by name.

A configuration without descriptions names its tensors itself: `format: mxfp4-pack-quantized-e8m0` with
`quantized_tensors`, and says nothing of inputs. What the file showed: a stack of experts is called `experts.down_proj`,
without ".weight", and its scale `experts.down_proj.weight_scale`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from fp8load.errors import ConfigError, Problem
from fp8load.formats.base import CheckpointFormat, Claim, Claimed, Ignored, Located, Unclaimed, last_dot
from fp8load.formats.document import validated
from fp8load.formats.microscaling import MXFP4, MXFP8, mx
from fp8load.scheme import Role

NAME = "ascend"
DESCRIPTION = "quant_model_description.json"
FLOAT = "FLOAT"

SCHEMES = {
    "W4A4_MXFP4": mx(MXFP4, MXFP4),
    "W4A8_MXFP": mx(MXFP4, MXFP8),
    "W4A16_MXFP4": mx(MXFP4, None),
    "W8A8_MXFP8": mx(MXFP8, MXFP8),
}
"""Type of a description -> scheme."""

SUFFIXES: Mapping[str, Role] = {"weight_scale": Role.WEIGHT_SCALE}


class AscendConfig(BaseModel):
    """The keys that are not names of tensors."""

    model_config = ConfigDict(extra="allow")

    quant_method: str | None = None
    model_quant_type: str | None = None
    version: str | None = None
    group_size: Literal[32, 0, -1] | None = None  # 0 and -1: no groups anywhere, as integers have it
    format: Literal["mxfp4-pack-quantized-e8m0"] | None = None
    bits: Literal[4] | None = None
    element: Literal["e2m1"] | None = None
    scale_dtype: Literal["e8m0"] | None = None
    packing: Literal["uint8-nibble-lohi"] | None = None
    quantized_tensors: list[str] | None = None


NOTES = frozenset({
    "rounding", "scale_convention", "npu_reference", "quantize_linear_attn", "cpu_rtn_provenance", "metadata",
    "optional",
})  # fmt: skip
"""Keys that record how the checkpoint was made."""


def detect(document: Mapping[str, Any]) -> bool:
    """quant_method is ascend, or the object is a description: it has msmodelslim's own key."""
    return document.get("quant_method") == NAME or "model_quant_type" in document


def parse(located: Located) -> CheckpointFormat:
    """The configuration as a value. Raises `ConfigError`, also for types that are not read, each with a tensor."""
    config = validated(AscendConfig, located)
    extra = config.model_extra or {}
    described = located.files.get(DESCRIPTION, {})
    types = {name: kind for name, kind in {**described, **extra}.items() if _is_type(name, kind)}
    listed = frozenset(config.quantized_tensors or ())
    if not types and not listed:
        raise ConfigError(Problem(
            code="F8L107", message="no tensor is described", file=located.place,
            expected=f"{DESCRIPTION} beside config.json, or quantized_tensors", got="neither",
            hint=f"fetch {DESCRIPTION}: quant_method ascend alone does not say how any tensor is stored",
        ))  # fmt: skip
    _refuse_unknown(types, located)
    kinds = sorted({kind for kind in types.values() if kind != FLOAT}) or ["MXFP4, weights only"]
    return CheckpointFormat(
        name=NAME,
        title=f"Ascend: {', '.join(kinds)}",
        place=located.place,
        claim=_claims(types, listed, located.place),
        suffixes=SUFFIXES,
        split=_splitter(listed) if any(not name.endswith(".weight") for name in listed) else last_dot,
        unknown_keys=tuple(key for key in extra if key not in types and key not in NOTES),
    )


def _is_type(name: str, kind: object) -> bool:
    """Whether an entry says how a tensor is stored: a dotted name, and a type in capitals."""
    return "." in name and isinstance(kind, str) and kind.isupper()


def _refuse_unknown(types: Mapping[str, str], located: Located) -> None:
    for name, kind in types.items():
        if kind != FLOAT and kind not in SCHEMES:
            raise ConfigError(Problem(
                code="F8L107", message="this Ascend type is not supported by this version", file=located.place,
                tensor=name, expected=f"{FLOAT}, {', '.join(SCHEMES)}", got=kind,
                hint="`fp8load inspect --skeleton` still lists what the files hold",
            ))  # fmt: skip


def _claims(types: Mapping[str, str], listed: frozenset[str], place: str) -> Callable[[str], Claim]:
    """From a module to what is said of its weight, which is `<module>.weight`, or called like the module itself."""
    claimed = {kind: Claimed(scheme=scheme, by=kind, explicit=True) for kind, scheme in SCHEMES.items()}
    weight_only = Claimed(scheme=mx(MXFP4, None), by=f"{place} quantized_tensors", explicit=True)

    def claim(module: str) -> Claim:
        names = (f"{module}.weight", module)
        if any(name in listed for name in names):
            return weight_only
        kind = next((types[name] for name in names if name in types), None)
        if kind is None:
            return Unclaimed()
        return Ignored(by=f"{names[0]}: {FLOAT}") if kind == FLOAT else claimed[kind]

    return claim


def _splitter(listed: Iterable[str]) -> Callable[[str], tuple[str, str]]:
    """Module and suffix, where a listed tensor without ".weight" is the weight of the module of its name."""
    bare = frozenset(name for name in listed if not name.endswith(".weight"))
    return lambda name: (name, "weight") if name in bare else last_dot(name)
