"""`quant_method: fp8`: DeepSeek and transformers block FP8, AutoFP8, and Quark's custom mode, which share the name.

Keys (transformers FineGrainedFP8Config; AutoFP8 BaseQuantizeConfig; vLLM Fp8Config reads the same):
  activation_scheme        "dynamic", or "static" with a stored input scale
  weight_block_size        [rows, cols]; null or absent: one scale for the tensor
  modules_to_not_convert / ignored_layers    what is kept unquantized
  scale_fmt                "ue8m0": scales are rounded to powers of two, whatever dtype they are stored in
  kv_cache_scheme          "static": k_scale and v_scale are stored
Tensors: `weight` F8_E4M3 [N, K] and `weight_scale_inv` [ceil(N/bn), ceil(K/bk)] (a multiplier, despite the name), or
per tensor `weight_scale` (AutoFP8, Quark) or `weight_scale_inv` (transformers, Mistral) [] / [1] / [1, 1], with
`input_scale` or `activation_scale`. Scales are F32 (DeepSeek, GLM), BF16 (Qwen3, Mistral), F16 (Qwen3-4B-2507), or
exponents: F8_E8M0, and U8 where `ue8m0` or blocks of [1, 32] (OCP microscaling) say so.

What published lists of unquantized modules showed: there need not be any (DeepSeek-V3, Kimi-K2, MiMo); MiniMax-M2
writes bare names ("gate"); Mistral writes "model.vision_tower" for files that say `vision_tower.`, because transformers
renames between saving and loading; GLM-5 lists parameters ("k_norm.bias"), and "self_attn.indexers_proj", which is
`indexer.weights_proj.weight` with every ".weight" cut out.

MiMo-V2.5 lists `self_attn.o_proj` only, leaves `lm_head`, routers and `eh_proj` to its readers, which never quantize
them by themselves, and calls the MTP layers' `o_proj` "model.decoder.self_attn.o_proj" (F8L301, and F8L302).

What this version does not read: MiMo-V2.5 stores `qkv_proj` for four ranks, one after the other, each with q, k and v
in blocks of its own, so that [13568, 4096] has 4 * (24 + 2 + 1) = 108 rows of scales instead of 106 (F8L501).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from fp8load.dtypes import DType
from fp8load.errors import Problem
from fp8load.formats.base import CheckpointFormat, Claim, Claimed, Ignored, Located
from fp8load.formats.document import validated
from fp8load.formats.match import checked, component_run, exact_or_regex, first_cover, substring
from fp8load.formats.microscaling import MX_GROUP, MXFP8, mx
from fp8load.scheme import (
    Granularity,
    KVScheme,
    LinearScheme,
    PerBlock,
    PerGroup,
    PerTensor,
    PerToken,
    QuantSpec,
    Role,
    ScaleRounding,
    SharedExponent,
)

NAME = "fp8"

SUFFIXES: Mapping[str, Role] = {
    "weight_scale_inv": Role.WEIGHT_SCALE,
    "weight_scale": Role.WEIGHT_SCALE,
    "input_scale": Role.INPUT_SCALE,
    "activation_scale": Role.INPUT_SCALE,
}

Element = Literal["e4m3", "float8_e4m3fn", "e5m2", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]
"""The elements of a weight, as exporters and torch call them."""

_ELEMENT: dict[Element, DType] = {
    "e4m3": DType.F8_E4M3, "float8_e4m3fn": DType.F8_E4M3, "e5m2": DType.F8_E5M2, "float8_e5m2": DType.F8_E5M2,
    "float8_e4m3fnuz": DType.F8_E4M3FNUZ, "float8_e5m2fnuz": DType.F8_E5M2FNUZ,
}  # fmt: skip

_FNUZ = {"e4m3": DType.F8_E4M3FNUZ, "e5m2": DType.F8_E5M2FNUZ}
"""What the general names also mean, where a tensor's own dtype says so; torch's names mean one thing."""


def _two_sizes(value: Any) -> Any:
    """A block size as written, if it is two integers. Raises `ValueError` that pydantic passes on."""
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    if value is None or (is_pair and all(type(size) is int for size in value)):
        return value
    raise ValueError("two integers, rows and columns of a block, such as [128, 128]; or null for one scale a tensor")


class Fp8Config(BaseModel):
    """The keys of `quantization_config` that this format reads or knows to be harmless."""

    model_config = ConfigDict(extra="allow", strict=True)

    quant_method: str
    activation_scheme: Literal["dynamic", "static"] | None = None
    weight_block_size: Annotated[tuple[int, int] | None, BeforeValidator(_two_sizes)] = Field(
        default=None, strict=False
    )
    ignored_layers: list[str] | None = None
    modules_to_not_convert: list[str] | None = None
    modules_to_convert: list[str] | None = None
    fmt: Element = "e4m3"
    scale_fmt: Literal["ue8m0", "float"] | None = None
    kv_cache_scheme: Literal["static", "dynamic"] | None = None
    dequantize: bool = False  # a wish for the reader, says nothing about the file
    store_dtype: Literal["fp8"] | None = None  # vLLM also knows "mxfp4", for experts; no file with it was seen
    expert_dtype: str | None = None
    export: dict[str, Any] | None = None  # Quark's record of how it exported


def is_deepseek_v4(document: Mapping[str, Any]) -> bool:
    """Whether the model is DeepSeek-V4 or later, which has a format of its own under the same quant_method."""
    kinds = document.get("architectures")
    names = [document.get("model_type"), *(kinds if isinstance(kinds, list) else ())]
    return any(isinstance(name, str) and name.lower().startswith(("deepseek_v4", "deepseekv4")) for name in names)


def detect(document: Mapping[str, Any]) -> bool:
    """quant_method is fp8, the model has no dialect of its own, and no other tool has put its experts on top
    (`modelopt_on_fp8`)."""
    is_fp8 = document.get("quant_method") == "fp8" and "moe_quant_algo" not in document
    return is_fp8 and not is_deepseek_v4(document)


def parse(located: Located) -> CheckpointFormat:
    """The configuration as a value. Raises `ConfigError`."""
    config = validated(Fp8Config, located)
    return build(config, located, name=NAME)


UNLISTED = frozenset({"lm_head", "eh_proj"})
"""Last components of matrices that no reader of this dialect quantizes by itself, beside routers: lists need not name
them."""

_ROOT = "model."
"""What transformers puts before names when it loads, so that lists may have it and files not."""


def covers(entry: str, module: str) -> bool:
    """Whether an entry of the ignore list covers a module: whole components, or `re:` (AutoFP8).

    An entry that begins with "model." also covers a module whose name begins with the rest of it.
    """
    if entry.startswith("re:"):
        return exact_or_regex(entry, module)
    return component_run(entry, module) or (entry.startswith(_ROOT) and component_run(entry, _ROOT + module))


def may_cover(entry: str, module: str) -> bool:
    """Whether some reader takes an entry to cover the module, or its writer did: GLM-5 cut ".weight" out of names."""
    return substring(entry, module) or entry == f"{module}.weight".replace(".weight", "")


def _finder(ignore: tuple[str, ...]) -> Callable[[str], str | None]:
    """From a module to an entry that covers it, as `covers` says, by looking up and not by searching."""
    plain, rooted = first_cover(ignore, covers), [entry for entry in ignore if entry.startswith(_ROOT)]
    under_root = first_cover(rooted, component_run)
    return lambda module: plain(module) or (under_root(_ROOT + module) if rooted else None)


def build(config: Fp8Config, located: Located, *, name: str) -> CheckpointFormat:
    """A format from the parsed keys; other dialects that write the same tensors (auto-round) build on it."""
    # An empty list under one key does not hide the other's (vLLM reads them so).
    listed = config.ignored_layers or config.modules_to_not_convert
    explicit = config.ignored_layers is not None or config.modules_to_not_convert is not None
    ignore = checked(listed or (), located.place)
    find = _finder(ignore)
    scheme = block_scheme(config)
    claimed = Claimed(scheme=scheme, by=located.place, explicit=explicit, alternatives=_alternatives(config, scheme))
    unlisted = replace(claimed, explicit=False)

    def claim(module: str) -> Claim:
        entry = find(module)
        if entry is not None:
            return Ignored(by=entry)
        return unlisted if module.rpartition(".")[2] in UNLISTED else claimed

    kv = KVScheme(dtype=DType.F8_E4M3, granularity=PerTensor(), static=True)
    return CheckpointFormat(
        name=name,
        title=_title(config, claimed.scheme),
        place=located.place,
        claim=claim,
        suffixes=SUFFIXES,
        kv=kv if config.kv_cache_scheme == "static" else None,
        ignore=ignore,
        covers=covers,
        may_cover=may_cover,
        unknown_keys=tuple(config.model_extra or ()),
        # transformers' own habit: other tools that build on this format quantize such weights too
        unconverted=lambda shape: _left_unconverted(config, shape) if name == NAME else None,
        problems=_contradictions(config, located),
    )


def block_scheme(config: Fp8Config) -> LinearScheme:
    """What the keys say of a weight that they claim; the dtype of its scales is the tensors' to say."""
    weight: Granularity
    activation: Granularity
    if config.weight_block_size is not None:
        bn, bk = _block(config.weight_block_size)
        weight, activation = PerBlock(bn, bk) if bn > 1 else PerGroup(bk), PerGroup(bk)
    else:
        weight = PerTensor()
        activation = PerTensor() if config.activation_scheme == "static" else PerToken()
    element = _ELEMENT[config.fmt]
    powers = config.scale_fmt == "ue8m0"
    exponent = SharedExponent.FIT if powers else SharedExponent.FLOOR
    return LinearScheme(
        weight=QuantSpec(dtype=element, granularity=weight),
        input=QuantSpec(dtype=DType.F8_E4M3, granularity=activation, exponent=exponent),
        input_static=config.activation_scheme == "static" and config.weight_block_size is None,
        rounding=ScaleRounding.POWER_OF_TWO if powers else ScaleRounding.ANY,
    )


def _alternatives(config: Fp8Config, scheme: LinearScheme) -> tuple[LinearScheme, ...]:
    """What else the keys leave open, for tensors to decide: scales as exponents, and the fnuz floats."""
    fnuz = _FNUZ.get(config.fmt)
    others = () if fnuz is None else (replace(scheme, weight=replace(scheme.weight, dtype=fnuz)),)
    return (*as_exponents(scheme), *others)


def as_exponents(scheme: LinearScheme) -> tuple[LinearScheme, ...]:
    """The same scheme with scales stored as bytes of exponents, where the configuration lets U8 mean that."""
    if scheme.weight.granularity == MX_GROUP and scheme.weight.dtype is MXFP8.dtype:
        return (mx(MXFP8, MXFP8, SharedExponent.FIT),)
    in_blocks = isinstance(scheme.weight.granularity, PerBlock | PerGroup)
    if not in_blocks or scheme.rounding is not ScaleRounding.POWER_OF_TWO:
        return ()
    return (replace(scheme, weight=replace(scheme.weight, scale_dtype=DType.F8_E8M0)),)


def _block(size: tuple[int, int]) -> tuple[int, int]:
    """A block size that shapes can be divided by; one that is not a size is a problem of its own."""
    return max(size[0], 1), max(size[1], 1)


def _title(config: Fp8Config, scheme: LinearScheme) -> str:
    element = {"e4m3": "e4m3", "float8_e4m3fn": "e4m3", "float8_e5m2": "e5m2"}.get(config.fmt, config.fmt)
    element = element.removeprefix("float8_")
    if isinstance(scheme.weight.granularity, PerBlock | PerGroup):
        bn, bk = config.weight_block_size or (0, 0)
        return f"fp8: {element} weights, one multiplier per {bn} x {bk} block; activations dynamic, 1 x {bk}"
    how = "static" if scheme.input_static else "dynamic, per token"
    return f"fp8: {element} weights, one multiplier per tensor; activations {how}"


def _left_unconverted(config: Fp8Config, shape: tuple[int, ...]) -> str | None:
    """transformers 5 leaves a weight in BF16 when its shape is not a multiple of the block, yet writes a scale for it.

    That scale is uninitialised memory; seen in files written by transformers 5.23.
    """
    if config.weight_block_size is None or len(shape) != 2:
        return None
    bn, bk = _block(config.weight_block_size)
    if shape[0] % bn == 0 and shape[1] % bk == 0:
        return None
    return f"transformers keeps weights that are no multiple of {bn} x {bk} unquantized and writes a junk scale"


def _contradictions(config: Fp8Config, located: Located) -> tuple[Problem, ...]:
    if config.weight_block_size is not None and min(config.weight_block_size) < 1:
        return (Problem(code="F8L502", message="weight_block_size is not a size", file=located.place,
                        expected="two integers >= 1", got=str(list(config.weight_block_size)),
                        hint="write the rows and columns of a block that the export used"),)  # fmt: skip
    if config.activation_scheme == "static" and config.weight_block_size is not None:
        return (Problem(code="F8L106", message="static activations beside block scales", file=located.place,
                        expected="activation_scheme: dynamic with weight_block_size", got="static",
                        hint="no engine reads a static input scale for block-quantized weights"),)  # fmt: skip
    if config.activation_scheme is None and config.weight_block_size is None:
        return (Problem(code="F8L106", message="activation_scheme is missing", file=located.place,
                        expected='"static" or "dynamic"', got="no key",
                        hint="add it to quantization_config: static if input scales are stored"),)  # fmt: skip
    return ()
