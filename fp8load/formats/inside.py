"""Configurations inside the weights' own file: ComfyUI's metadata, marker tensors and marker key, torchao's metadata.

    1  `__metadata__._quantization_metadata`, and a tensor `X.comfy_quant` for each layer: read as one, because ComfyUI
       turns the first into the second; where both speak of a layer the metadata wins
    2  a tensor `scaled_fp8` (older files): its dtype is that of the weights
    3  torchao's `__metadata__`, an entry for each tensor; a quantization_config, which says it shorter, comes before

What the formats need to know of the tensors (which prefix they have, which layers store an input scale) is put into
the document here, so that parsing stays a function of the document alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from fp8load.formats.base import Located
from fp8load.index.embedded import MARKERS, METADATA, METADATA_KEY, TORCHAO
from fp8load.index.index import Index, TensorMeta

COMFY = "comfyui"
LEGACY = "comfyui_legacy"
COMFYUI = frozenset({COMFY, LEGACY})
"""Formats of files that ComfyUI loads: it runs each layer as it is stored, and fuses none."""

TORCHAO_TENSORS = "torchao_tensors"

WHY = "what the weights' own file says was written together with them"
MARKER_KEY = "scaled_fp8"
"""The last component of the old dialect's marker."""
_LEGACY_SCALE, _LEGACY_INPUT = ".scale_weight", ".scale_input"


def inside(index: Index) -> Iterator[Located]:
    """The configuration that the safetensors files themselves hold, if any. Reads nothing."""
    metadata, markers = index.embedded.get(METADATA), index.embedded.get(MARKERS)
    if metadata is not None or markers is not None:
        places = {f"__metadata__ {METADATA_KEY}": metadata, "tensors *.comfy_quant": markers}
        place = " and ".join(name for name, said in places.items() if said is not None)
        yield Located(place=f"safetensors {place}", document=_comfy(metadata or {}, markers or {}, index), why=WHY)
        return
    suspects = [name for name in index.tensors if name.endswith((MARKER_KEY, _LEGACY_SCALE))]
    if any(is_marker(name) or _is_scale(name, index.tensors) for name in suspects):
        yield Located(place=f"safetensors {MARKER_KEY}", document=_legacy(index.tensors), why=WHY)


def torchao_metadata(index: Index) -> Iterator[Located]:
    """What torchao says of its tensors, if any is quantized. Reads nothing."""
    quantized: dict[str, list[Any]] = {}
    for name, entry in index.embedded.get(TORCHAO, {}).items():
        module = name.removesuffix(".weight")
        quantized[module] = [entry, _shape(f"{module}._weight_qdata", index)]
    if quantized:
        yield Located(place="safetensors __metadata__ of torchao", document={TORCHAO_TENSORS: quantized}, why=WHY)


def _shape(name: str, index: Index) -> list[int] | None:
    return list(index.tensors[name].shape) if name in index.tensors else None


def is_marker(name: str) -> bool:
    """Whether a tensor is the old dialect's marker, by its name."""
    return name.endswith(MARKER_KEY) and name[: -len(MARKER_KEY)][-1:] in ("", ".")  # nearly all names end otherwise


def _is_scale(name: str, tensors: Mapping[str, TensorMeta]) -> bool:
    """Whether a tensor is the scale of an FP8 weight, by its older name."""
    weight = tensors.get(f"{name.removesuffix(_LEGACY_SCALE)}.weight") if name.endswith(_LEGACY_SCALE) else None
    return weight is not None and weight.dtype.is_fp8


def _comfy(metadata: Mapping[str, Any], markers: Mapping[str, Any], index: Index) -> dict[str, Any]:
    """Layers under their names in the file, and what contradicts them."""
    modules = {name.removesuffix(".weight") for name in index.tensors if name.endswith(".weight")}
    add, drop = prefix_between(metadata, modules)
    named = {add + name.removeprefix(drop): said for name, said in metadata.items()}
    layers = {**markers, **named}
    return {
        COMFY: {
            "layers": layers,
            "input_scales": sorted(layer for layer in layers if f"{layer}.input_scale" in index.tensors),
            "prefix": [drop, add],
            "twice": {name: markers[name] for name in named if name in markers and markers[name] != named[name]},
            "without_weight": sorted(layers.keys() - modules),
            "unmarked": sorted(modules - layers.keys() if markers and not metadata else ()),
            "scaled": sorted(name for name in modules if f"{name}.weight_scale" in index.tensors),
        }
    }


def prefix_between(layers: Collection[str], modules: Collection[str]) -> tuple[str, str]:
    """What to put before the names of the metadata, and what to take away first, so that they are those of the tensors.

    Nothing, where some layer has its own name in the file or where two prefixes do equally well: a loader does not
    guess, and the layers are then reported as layers without a weight.
    """
    if not layers or any(layer in modules for layer in layers):
        return "", ""
    by_last: dict[str, list[str]] = {}
    for module in modules:
        by_last.setdefault(module.rpartition(".")[2], []).append(module)
    votes: Counter[tuple[str, str]] = Counter()
    for layer in layers:
        for module in by_last.get(layer.rpartition(".")[2], ()):
            if module.endswith(f".{layer}"):
                votes[module.removesuffix(layer), ""] += 1
            elif layer.endswith(f".{module}"):
                votes["", layer.removesuffix(module)] += 1
    best = votes.most_common(2)
    if not best or (len(best) > 1 and best[0][1] == best[1][1]):
        return "", ""
    return best[0][0]


def _legacy(tensors: Mapping[str, TensorMeta]) -> dict[str, Any]:
    """The marker keys with their prefixes, and the layers that store scales."""
    markers = {
        name.removesuffix(MARKER_KEY): {"tensor": name, "dtype": meta.dtype.value, "num_elements": meta.num_elements}
        for name, meta in tensors.items()
        if is_marker(name)
    }
    scaled = [name.removesuffix(_LEGACY_SCALE) for name in tensors if name.endswith(_LEGACY_SCALE)]
    return {
        LEGACY: {
            "markers": markers,
            "scaled": sorted(scaled),
            "input_scales": sorted(name for name in scaled if f"{name}{_LEGACY_INPUT}" in tensors),
        }
    }
