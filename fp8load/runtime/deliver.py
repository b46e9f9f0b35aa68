"""Tensors in memory, put where a plan's copies put those of files: the same boxes, views, orders and widening.

A tensor comes whole, as a file has it; the plan's rank takes its piece.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from fp8load.boxes import Box
from fp8load.dtypes import DType
from fp8load.index.index import TensorMeta
from fp8load.plan.plan import Copy
from fp8load.runtime.dtypes import as_bytes, stored_shape, torch_dtype
from fp8load.runtime.segments import repacked
from fp8load.scheme import Repack
from fp8load.swizzle import padded_shape


def piece_of(tensor: torch.Tensor, stored: TensorMeta, piece: TensorMeta, *, same_bytes: bool) -> torch.Tensor:
    """The flat elements of `piece`, a part of the tensor `stored` (or all of it), in the order of the file.

    Of `piece`'s dtype where the tensor has the bytes of the file, else of the tensor's own.
    """
    flat = tensor.detach().contiguous().reshape(-1)
    if same_bytes:
        begin = piece.begin - stored.begin
        return as_bytes(flat)[begin : begin + piece.nbytes].view(torch_dtype(piece.dtype))
    unit = stored.nbytes // max(stored.num_elements, 1)
    begin = (piece.begin - stored.begin) // unit
    return flat[begin : begin + piece.num_elements]


def in_rows(flat: torch.Tensor, meta: TensorMeta, copy: Copy) -> torch.Tensor:
    """The elements of a file as the matrix that they mean: [N, K], packed ones as bytes; rows first, in order."""
    shape = stored_shape(meta.dtype, meta.shape)
    if copy.repack is Repack.UNSWIZZLE:
        padded = padded_shape((meta.shape[0], meta.shape[1]))
        grid = _repacked(flat, copy.repack, padded[1]).view(padded)
        return grid[: shape[0], : shape[1]]
    if copy.repack is not None:
        flat = _repacked(flat, copy.repack, shape[-1])
    if copy.transposed:
        return flat.view(shape[-1], *shape[:-1]).movedim(0, -1)
    return flat.view(shape)


def _repacked(flat: torch.Tensor, repack: Repack, num_cols: int) -> torch.Tensor:
    return repacked(as_bytes(flat), repack, num_cols).view(flat.dtype)


def place(value: torch.Tensor, meta: TensorMeta, copy: Copy, target: torch.Tensor) -> None:
    """Write the copy's box of a matrix (`in_rows`) into its box of the parameter, widened where its dtype is."""
    if not copy.src.num_elements:
        return
    view, piece = boxes(value, meta, copy, target)
    view.copy_(piece)


def boxes(value: torch.Tensor, meta: TensorMeta, copy: Copy, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The copy's box of the parameter and, in its shape, that of a matrix (`in_rows`)."""
    seen = value if copy.view is None else value.reshape(stored_shape(meta.dtype, copy.view))
    piece = seen[_stored(meta.dtype, copy.src).slices()] if copy.src.lo else seen
    view = target[_stored(meta.dtype, copy.dst).slices()] if copy.dst.lo else target
    return view, piece.reshape(view.shape)


def _stored(dtype: DType, box: Box) -> Box:
    return Box(stored_shape(dtype, box.lo), stored_shape(dtype, box.hi))


def by_source(copies: Iterable[Copy]) -> Mapping[str, list[Copy]]:
    """The copies of each tensor, or piece of one, by its name."""
    found: dict[str, list[Copy]] = {}
    for copy in copies:
        found.setdefault(copy.source, []).append(copy)
    return found
