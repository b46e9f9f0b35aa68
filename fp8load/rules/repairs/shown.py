"""What tensors show of their quantization when no configuration does."""

from __future__ import annotations

from fp8load.dtypes import FP8_WEIGHT_DTYPES
from fp8load.index.index import Index, TensorMeta
from fp8load.scheme import PerBlock, scale_shape

SUFFIXES = ("weight_scale_inv", "weight_scale")
_SIZES = (32, 64, 128)

Pairs = list[tuple[TensorMeta, TensorMeta]]


def weights_with_scales(index: Index) -> Pairs:
    """FP8 matrices, each with the scale beside it; those without one are left out."""
    pairs: Pairs = []
    for meta in index.tensors.values():
        module, _, last = meta.name.rpartition(".")
        if last == "weight" and meta.dtype in FP8_WEIGHT_DTYPES and len(meta.shape) == 2:
            scales = (index.tensors.get(f"{module}.{suffix}") for suffix in SUFFIXES)
            pairs += [(meta, scale) for scale in scales if scale is not None][:1]
    return pairs


def block_sizes(pairs: Pairs) -> list[int]:
    """Sizes of square blocks under which every scale has the shape that it has; none for no pairs."""

    def fits(size: int) -> bool:
        return all(scale.shape == scale_shape(PerBlock(size, size), weight.shape) for weight, scale in pairs)

    return [size for size in _SIZES if pairs and fits(size)]


def are_scalars(pairs: Pairs) -> bool:
    """Whether every scale is one number."""
    return bool(pairs) and all(scale.num_elements == 1 for _, scale in pairs)
