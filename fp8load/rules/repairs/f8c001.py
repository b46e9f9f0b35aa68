"""F8C001: a file with scales and no marker gets the marker that ComfyUI looks for."""

import json
from collections.abc import Iterator

from fp8load.dtypes import DType
from fp8load.errors import Problem
from fp8load.formats.inside import MARKER_KEY, is_marker
from fp8load.index.embedded import MARKERS, METADATA, METADATA_KEY
from fp8load.index.index import Index, TensorMeta
from fp8load.rules.base import Context, Repair
from fp8load.writing.actions import Add, SetMetadata

_PREFIX = "model.diffusion_model."
_FORMATS = {DType.F8_E4M3: "float8_e4m3fn", DType.F8_E5M2: "float8_e5m2"}


def actions(context: Context, _problem: Problem) -> Iterator[Add | SetMetadata]:
    """Where every FP8 layer of the file has a scale of one number, in one dialect. What two dialects say together, or a
    marker whose scales are lost, no marker can mend."""
    index = context.checkpoint.index
    if len(index.files) != 1 or {METADATA, MARKERS} & index.embedded.keys() or any(map(is_marker, index.tensors)):
        return
    (file,) = index.files
    layers = {name.removesuffix(".weight"): meta for name, meta in index.tensors.items()
              if name.endswith(".weight") and meta.dtype.is_fp8}  # fmt: skip
    if not layers or not all(meta.dtype in _FORMATS for meta in layers.values()):
        return
    if _all_scaled(index, layers, "weight_scale"):
        said = {name: {"format": _FORMATS[meta.dtype]} for name, meta in layers.items()}
        yield SetMetadata(file, METADATA_KEY, json.dumps({"format_version": "1.0", "layers": said}))
    elif _all_scaled(index, layers, "scale_weight") and len({meta.dtype for meta in layers.values()}) == 1:
        yield _marker(index, layers, file)


def _all_scaled(index: Index, layers: dict[str, TensorMeta], suffix: str) -> bool:
    scales = [index.tensors.get(f"{name}.{suffix}") for name in layers]
    return all(scale is not None and scale.num_elements == 1 for scale in scales)


def _marker(index: Index, layers: dict[str, TensorMeta], file: str) -> Add:
    """Of the weights' dtype, under the prefix that loaders strip; two elements leave inputs as they are, which is what
    layers without a scale for them need."""
    (dtype,) = {meta.dtype for meta in layers.values()}
    prefix = _PREFIX if all(name.startswith(_PREFIX) for name in layers) else ""
    size = 1 if any(f"{name}.scale_input" in index.tensors for name in layers) else 2
    return Add(
        TensorMeta(prefix + MARKER_KEY, dtype, (size,), file, 0, size), bytes(size), "marks the layers as scaled"
    )


REPAIR = Repair(title="writes the marker of the dialect that the scales are in", actions=actions)
