"""F8L101: the configuration is written from what the tensors show."""

from collections.abc import Iterator
from typing import Any

from fp8load.dtypes import FP8_WEIGHT_DTYPES
from fp8load.errors import Problem
from fp8load.formats.match import is_embedding
from fp8load.index.configs import RECIPE
from fp8load.index.index import Index
from fp8load.rules.base import Context, Repair
from fp8load.rules.f8c001_comfy_marker import check as check_marker
from fp8load.rules.repairs import f8c001
from fp8load.rules.repairs.once import once
from fp8load.rules.repairs.shown import are_scalars, block_sizes, weights_with_scales
from fp8load.writing.actions import Edit


def actions(context: Context, _problem: Problem) -> Iterator[Edit]:
    """`quant_method: fp8`, with square blocks that fit every weight, or one scale for each; else nothing. Nor for a
    file of ComfyUI that lacks its marker: that is F8C001's to write, and two configurations would contradict."""
    shown = _shown(context)
    if any(any(f8c001.actions(context, found)) for found in check_marker(context)):
        return
    if shown is not None:
        yield Edit("config.json", ("quantization_config",), "set", shown)


@once
def _shown(context: Context) -> dict[str, Any] | None:
    index = context.checkpoint.index
    if any(name not in ("config.json", "generation_config.json", RECIPE) for name in index.configs):
        return None  # another file says something, and it cannot be read
    pairs = weights_with_scales(index)
    if len(pairs) != sum(meta.dtype in FP8_WEIGHT_DTYPES for meta in index.tensors.values()):
        return None  # some weight has no scale: lost, or a dialect of its own
    inputs = [name for name in index.tensors if name.endswith((".input_scale", ".activation_scale"))]
    document: dict[str, Any] = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    sizes = block_sizes(pairs)
    if are_scalars(pairs) and (len(sizes) != 1 or inputs) and len(inputs) in (0, len(pairs)):
        document["activation_scheme"] = "static" if inputs else "dynamic"
    elif len(sizes) == 1 and not inputs:
        document["weight_block_size"] = [sizes[0], sizes[0]]
    else:
        return None
    document["modules_to_not_convert"] = sorted(_unquantized(index))
    return document


def _unquantized(index: Index) -> Iterator[str]:
    """Matrices in 16 bits or more."""
    for meta in index.tensors.values():
        module, _, last = meta.name.rpartition(".")
        if last == "weight" and len(meta.shape) == 2 and meta.dtype.is_wide_float and not is_embedding(module):
            yield module


REPAIR = Repair(
    title="writes the configuration that the tensors show", actions=actions,
    only_if="how activations were quantized is a guess",
)  # fmt: skip
