"""ComfyUI's quantized layers: FP8 per tensor, NVFP4 and MXFP8, announced inside the file layer by layer.

Source: ComfyUI QUANTIZATION.md, `quant_ops.QUANT_ALGOS`; comfy-kitchen's eager `quantize_nvfp4` and `quantize_mxfp8`.
A layer's entry is a format's name, or an object with the key `format`; `full_precision_matrix_mult` keeps its input as
it is. Files have no config.json, and prefixes such as `model.diffusion_model.`.

float8_e4m3fn, float8_e5m2   `weight`, `weight_scale` F32 [], and `input_scale` F32 [] where it was calibrated
nvfp4                        `weight` U8 [N16, K16/2], the even element in the high half; `weight_scale` F8_E4M3 or U8,
                             swizzled, [ceil128(N16), ceil4(K16/16)]; `weight_scale_2` F32 []; `input_scale` F32 []
mxfp8                        `weight` F8_E4M3 [N32, K32]; `weight_scale` F8_E8M0 or U8, swizzled, likewise of 1 x 32

N16 is N rounded up to 16: rows and columns of zeros pad such weights. The file does not say by how many; a bias does,
for rows. Without one, and for columns, the padded size is the layer's. An input that has no stored scale is not
quantized here, but for MXFP8, which needs none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from fp8load.dtypes import DType
from fp8load.errors import ConfigError, Problem, Severity
from fp8load.formats.base import CheckpointFormat, Claim, Claimed, Located, Unclaimed, last_dot
from fp8load.formats.document import validated
from fp8load.formats.inside import COMFY
from fp8load.formats.microscaling import MXFP8, mx, nvfp4
from fp8load.formats.siblings import lacking
from fp8load.index.embedded import METADATA_KEY
from fp8load.scheme import LinearScheme, NibbleOrder, PerTensor, QuantSpec, Role, ScaleLayout, Storage

NAME = "comfyui"

SUFFIXES: Mapping[str, Role] = {
    "weight_scale": Role.WEIGHT_SCALE,
    "weight_scale_2": Role.WEIGHT_GLOBAL_SCALE,
    "input_scale": Role.INPUT_SCALE,
    "input_global_scale": Role.INPUT_GLOBAL_SCALE,
}

NVFP4_STORAGE = Storage(
    elements_per_byte=2, nibble_order=NibbleOrder.HIGH_FIRST, scale_layout=ScaleLayout.SWIZZLED_128X4
)
MXFP8_STORAGE = Storage(scale_layout=ScaleLayout.SWIZZLED_128X4)

_FLOATS = {"float8_e4m3fn": DType.F8_E4M3, "float8_e5m2": DType.F8_E5M2}


class Layer(BaseModel):
    """What is said of one layer."""

    model_config = ConfigDict(extra="allow", strict=True)

    format: Literal["float8_e4m3fn", "float8_e5m2", "nvfp4", "mxfp8"]
    full_precision_matrix_mult: bool = False


class Facts(BaseModel):
    """The document that `fp8load.formats.inside` makes: the layers, and where they and the tensors disagree."""

    layers: dict[str, Any]
    input_scales: list[str]
    prefix: tuple[str, str]
    twice: dict[str, Any]
    without_weight: list[str]
    unmarked: list[str]
    scaled: list[str]


def detect(document: Mapping[str, Any]) -> bool:
    """The document was found inside a file of ComfyUI."""
    return document.keys() == {COMFY}


def parse(located: Located) -> CheckpointFormat:
    """The configuration as a value. Raises `ConfigError` that names a layer whose format is not known."""
    facts = validated(Facts, Located(place=located.place, document=located.document[COMFY]))
    layers = {name: _layer(name, said, located) for name, said in facts.layers.items()}
    stored = set(facts.input_scales)
    schemes: dict[tuple[str, bool], LinearScheme] = {}
    claims: dict[str, Claimed] = {}
    for name, layer in layers.items():
        quantized = not layer.full_precision_matrix_mult and (name in stored or layer.format == "mxfp8")
        scheme = schemes.setdefault((layer.format, quantized), _scheme(layer.format, quantized_input=quantized))
        claims[name] = Claimed(scheme=scheme, by=f"{located.place}: {name}", explicit=True)

    def claim(module: str) -> Claim:
        return claims.get(module, Unclaimed())

    def split(name: str) -> tuple[str, str]:
        """The input scale of an NVFP4 layer is that of its block scales."""
        module, suffix = last_dot(name)
        is_global = suffix == "input_scale" and module in layers and layers[module].format == "nvfp4"
        return module, "input_global_scale" if is_global else suffix

    return CheckpointFormat(
        name=NAME,
        title="ComfyUI: " + (", ".join(sorted({layer.format for layer in layers.values()})) or "no layer"),
        place=located.place,
        claim=claim,
        suffixes=SUFFIXES,
        split=split,
        unused=dict.fromkeys(("comfy_quant", "scaled_fp8"), "a marker, read when the checkpoint was opened"),
        unknown_keys=tuple(dict.fromkeys(key for layer in layers.values() for key in layer.model_extra or ())),
        problems=tuple(_problems(facts, layers, located)),
    )


def _layer(name: str, said: Any, located: Located) -> Layer:
    """One entry, in either spelling."""
    document = {"format": said} if isinstance(said, str) else said
    if not isinstance(document, Mapping):
        raise ConfigError(Problem(
            code="F8L107", message="a layer's entry is neither a format's name nor an object", module=name,
            file=located.place, expected='"nvfp4" or {"format": "nvfp4"}', got=repr(said)[:80],
            hint="correct the layer's entry, or export the file again",
        ))  # fmt: skip
    try:
        return validated(Layer, Located(place=located.place, document=document))
    except ConfigError as error:
        raise ConfigError(replace(error.problem, module=name)) from error


def _scheme(name: str, *, quantized_input: bool) -> LinearScheme:
    """A format of QUANT_ALGOS; `quantized_input`: with a stored scale, but for mxfp8."""
    if name == "nvfp4":
        return replace(nvfp4(divides=False, quantized_input=quantized_input), storage=NVFP4_STORAGE)
    if name == "mxfp8":
        return replace(mx(MXFP8, MXFP8 if quantized_input else None), storage=MXFP8_STORAGE)
    tensor = QuantSpec(dtype=_FLOATS[name], granularity=PerTensor())
    return LinearScheme(weight=tensor, input=tensor if quantized_input else None, input_static=quantized_input)


def _problems(facts: Facts, layers: Mapping[str, Layer], located: Located) -> Iterator[Problem]:
    drop, add = facts.prefix
    if drop or add:
        yield Problem(
            code="F8C002", message=f"{METADATA_KEY} names layers under another prefix than the tensors have",
            file=located.place, expected=f"names that begin with {add!r}" if add else f"names without {drop!r}",
            got=next(iter(layers), "").removeprefix(add), severity=Severity.WARNING if drop else Severity.INFO,
            refuses=False, hint="the one prefix under which the tensors are found was used; ComfyUI loses these layers"
            if drop else "the one prefix under which the tensors are found was used, as by loaders that strip it",
        )  # fmt: skip
    for name, said in facts.twice.items():
        yield Problem(
            code="F8L103", message="metadata and marker say different things of a layer", module=name,
            tensor=f"{name}.comfy_quant", file=located.place, got=repr(said),
            expected=f"{facts.layers[name]!r}, by {METADATA_KEY}",
            hint="the metadata is used, as by ComfyUI; make the two agree", refuses=False,
        )  # fmt: skip
    for name in facts.without_weight:
        yield Problem(
            code="F8L109", message="a layer that the file lists as quantized is not there", tensor=f"{name}.weight",
            file=located.place, expected=f"a weight in {layers[name].format}", got="no such tensor",
            hint="the export is incomplete, or the layers are listed under other names",
        )  # fmt: skip
    unmarked = set(facts.unmarked)
    for name in facts.scaled:
        if name in unmarked:
            yield Problem(
                code="F8L101", message="a layer has a scale and no marker", tensor=f"{name}.comfy_quant",
                file=located.place, expected="U8, the bytes of a JSON object", got="no such tensor",
                hint="without it readers take the codes for numbers: export the file again",
            )  # fmt: skip
    used = [name for name, layer in layers.items() if layer.format != "mxfp8" and not layer.full_precision_matrix_mult]
    for name in lacking(used, facts.input_scales):
        yield Problem(
            code="F8L204", message="a layer has no input scale, and its siblings have one", file=located.place,
            tensor=f"{name}.input_scale", expected="F32 []", got="no such tensor",
            hint="not calibrated, or lost? mark the layer full_precision_matrix_mult where it is meant so",
        )  # fmt: skip
