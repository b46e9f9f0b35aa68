"""Checkpoints of raw casts: FP8 weights whose codes are their numbers, with no scale anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fp8load.dtypes import DType
from fp8load.formats.unscaled import is_bare
from fp8load.index.index import TensorMeta
from fp8load.rules.base import Context
from fp8load.scheme import Role

PACKED = (
    (".weight_packed", ".weight_scale"), (".weight", ".weight_scale"),
    ("_blocks", "_scales"),  # gpt-oss
    ("._data", "._scale"),  # quanto
    ("_weight_qdata", "_weight_scale"),  # torchao
)  # fmt: skip
"""Ends of the names of a weight that lowering does not know for one without a configuration, and of its scale."""

_BYTES = frozenset({DType.U8, DType.I8, DType.F4})


def packed(tensors: Mapping[str, TensorMeta]) -> Iterator[tuple[TensorMeta, str]]:
    """Weights that are bytes or FP8, with the name of the scale beside them."""
    for name, meta in tensors.items():
        if meta.dtype in _BYTES or meta.dtype.is_fp8:
            stems = ((name.removesuffix(weight), scale) for weight, scale in PACKED if name.endswith(weight))
            scale = next((stem + scale for stem, scale in stems if stem + scale in tensors), None)
            if scale is not None:
                yield meta, scale


def are_raw(context: Context) -> bool:
    """Whether no FP8 weight has anything but a bias beside it, nothing is packed, and no scale lost its weight."""
    lowered = context.checkpoint.lowered
    if context.checkpoint.format.name != "unquantized" or any(context.problems("F8L202")):
        return False
    if any(packed(context.checkpoint.index.tensors)):
        return False
    quantized = {name: info for name, info in lowered.modules.items() if info.tensors[Role.WEIGHT].dtype.is_fp8}
    beside = {name.rpartition(".")[0] for name in lowered.loose}
    return all(is_bare(info.tensors) and name not in beside for name, info in quantized.items())
