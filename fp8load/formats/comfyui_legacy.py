"""ComfyUI's older scaled FP8: a marker key `scaled_fp8`, and `scale_weight` beside each quantized weight.

Source: ComfyUI `convert_old_quants` and its tests. `scaled_fp8` may have a prefix (`model.diffusion_model.`), which is
then that of the layers it speaks of. Its dtype is that of the weights (F32 means E4M3); with two elements inputs stay
unquantized. `X.weight` F8_E4M3 or F8_E5M2, `X.scale_weight` F32 [] or [1], which multiplies, and `X.scale_input`.
Weights of 16 bits or more beside them are not quantized. An FP8 weight without `scale_weight` has lost it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from fp8load.dtypes import DType
from fp8load.errors import ConfigError, Problem
from fp8load.formats.base import CheckpointFormat, Claim, Claimed, Located, Unclaimed
from fp8load.formats.document import validated
from fp8load.formats.inside import LEGACY
from fp8load.formats.siblings import lacking
from fp8load.scheme import LinearScheme, PerTensor, QuantSpec, Role

NAME = "comfyui_legacy"

SUFFIXES: Mapping[str, Role] = {"scale_weight": Role.WEIGHT_SCALE, "scale_input": Role.INPUT_SCALE}

_ELEMENT = {"F8_E4M3": DType.F8_E4M3, "F8_E5M2": DType.F8_E5M2, "F32": DType.F8_E4M3}


class Marker(BaseModel):
    """A `scaled_fp8` tensor, by its header."""

    tensor: str
    dtype: str
    num_elements: int


class Facts(BaseModel):
    """The document that `fp8load.formats.inside` makes: markers by their prefix, and the layers with scales."""

    markers: dict[str, Marker]
    scaled: list[str]
    input_scales: list[str]


def detect(document: Mapping[str, Any]) -> bool:
    """The document was found inside a file of ComfyUI."""
    return document.keys() == {LEGACY}


def parse(located: Located) -> CheckpointFormat:
    """The configuration as a value. Raises `ConfigError` for a marker of a dtype that has no meaning."""
    facts = validated(Facts, Located(place=located.place, document=located.document[LEGACY]))
    stored = set(facts.input_scales)
    claims = {
        (prefix, static): Claimed(scheme=_scheme(marker, located, static=static), by=marker.tensor, explicit=False)
        for prefix, marker in facts.markers.items()
        for static in (False, True)
    }
    prefixes = sorted(facts.markers, key=len, reverse=True)

    def claim(module: str) -> Claim:
        prefix = next((prefix for prefix in prefixes if module.startswith(prefix)), None)
        return Unclaimed() if prefix is None else claims[prefix, module in stored]

    title = "; ".join(dict.fromkeys(str(claims[prefix, bool(stored)].scheme) for prefix in facts.markers))
    return CheckpointFormat(
        name=NAME,
        title=f"ComfyUI scaled FP8: {title or 'without its marker'}",
        place=located.place,
        claim=claim,
        suffixes=SUFFIXES,
        unused={"scaled_fp8": "a marker: its dtype and size were read in the header"},
        problems=tuple(_problems(facts, prefixes, located)),
    )


def _scheme(marker: Marker, located: Located, *, static: bool) -> LinearScheme:
    if marker.dtype not in _ELEMENT:
        raise ConfigError(Problem(
            code="F8L107", message="the marker's dtype has no meaning that is known", tensor=marker.tensor,
            file=located.place, expected=", ".join(_ELEMENT), got=marker.dtype,
            hint="the marker has the dtype of the weights: export the file again",
        ))  # fmt: skip
    tensor = QuantSpec(dtype=_ELEMENT[marker.dtype], granularity=PerTensor())
    static = static and marker.num_elements != 2
    return LinearScheme(weight=tensor, input=tensor if static else None, input_static=static)


def _problems(facts: Facts, prefixes: list[str], located: Located) -> Iterator[Problem]:
    lost = [name for name in facts.scaled if not name.startswith(tuple(prefixes))]
    if lost:
        yield Problem(
            code="F8L101", message="weights have scales and no marker says so", tensor="scaled_fp8", module=lost[0],
            file=located.place, expected=f"the key scaled_fp8 before {lost[0]}.scale_weight", got="no such tensor",
            hint="ComfyUI then takes the codes for numbers: add an empty F8_E4M3 tensor of that name",
        )  # fmt: skip
    used = [name for name in facts.scaled if _quantizes_input(name, facts, prefixes)]
    for name in lacking(used, facts.input_scales):
        yield Problem(
            code="F8L204", message="a layer has no input scale, and its siblings have one", file=located.place,
            tensor=f"{name}.scale_input", expected="F32 []", got="no such tensor", hint="not calibrated, or lost?",
        )  # fmt: skip


def _quantizes_input(name: str, facts: Facts, prefixes: list[str]) -> bool:
    prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
    return prefix is not None and facts.markers[prefix].num_elements != 2
