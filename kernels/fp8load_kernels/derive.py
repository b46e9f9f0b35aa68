"""What kernels need beside the loaded tensors: scales for the layer as a whole, in buffers that keep their address."""

from __future__ import annotations

import torch

from fp8load.runtime.backend import LinearWeights
from fp8load.runtime.grouped import StackWeights
from fp8load.scheme import PerBlock, PerTensor


def largest_input_scale(weights: LinearWeights, buffer: torch.Tensor | None = None) -> torch.Tensor | None:
    """The static input scale of a fused layer, [1]: the largest of its parts', as engines take it.

    Its parts share one input, so one scale has to serve all; the largest clamps the least. None without stored scales.
    """
    if weights.input_scale is None:
        return None
    return keep(weights.input_scale.float().amax().reshape(1), buffer)


def largest_input_global(weights: LinearWeights, buffer: torch.Tensor | None = None) -> torch.Tensor | None:
    """The multiplier of the input's block scales, float32 [1]: the largest of the parts', whichever way it is stored.

    None where the scheme stores none. Raises `ValueError` where it does and the weights lack it.
    """
    second, stored = weights.scheme.input_global, weights.input_global_scale
    if second is None:
        return None
    if stored is None:
        raise ValueError("the scheme stores a global scale of the input, and there is none")
    real = stored.float().reciprocal() if second.divides else stored.float()
    return keep(real.amax().reshape(1), buffer)


def channel_scale(weights: LinearWeights, buffer: torch.Tensor | None = None) -> torch.Tensor:
    """The weight's scale for each row, float32 [1, N]; per-tensor scales of the parts are repeated, which is exact.

    A view of the parameter where that has this form. Raises `ValueError` without a weight scale.
    """
    scale = weights.weight_scale
    if scale is None:
        raise ValueError("the weight has no scale")
    if weights.scheme.weight.granularity != PerTensor():
        row = scale.reshape(1, -1)
        return row if row.dtype == torch.float32 else keep(row.float(), buffer)
    pieces = [scale[part.scale_rows].float().expand(_num_rows(part.rows)) for part in weights.parts]
    return keep(torch.cat(pieces).reshape(1, -1), buffer)


def grid_rows(weights: LinearWeights, buffer: torch.Tensor | None = None) -> torch.Tensor | None:
    """For each row of W the row of the grid that its scales stand in, int32 [N]; None where that is row // block rows.

    Parts that are whole blocks lie in the grid as one matrix does; behind one that is not, each begins a row anew.
    """
    block = weights.scheme.weight.granularity
    if not isinstance(block, PerBlock):
        raise TypeError(f"no blocks: {block}")
    if all(part.rows.start // block.rows == part.scale_rows.start and part.rows.start % block.rows == 0
           for part in weights.parts):  # fmt: skip
        return None
    found = torch.empty(weights.shape[0], dtype=torch.int32)
    for part in weights.parts:
        found[part.rows] = part.scale_rows.start + torch.arange(part.rows.stop - part.rows.start) // block.rows
    return keep(found.to(weights.weight.device), buffer)


def row_factor(weights: LinearWeights | StackWeights, buffer: torch.Tensor | None = None) -> torch.Tensor | None:
    """The second level of scales as a multiplier for each row, float32 [N], of a stack [E, N]; None where the scheme
    has none.

    Raises `ValueError` where it has one and the weights lack it.
    """
    second, stored = weights.scheme.second_level, weights.weight_global_scale
    if second is None:
        return None
    if stored is None:
        raise ValueError("the scheme stores a global scale of the weight, and there is none")
    real = stored.float().reciprocal() if second.divides else stored.float()
    pieces = [
        real[..., i : i + 1].expand(*real.shape[:-1], _num_rows(part.rows)) for i, part in enumerate(weights.parts)
    ]
    return keep(torch.cat(pieces, dim=-1), buffer)


def keep(value: torch.Tensor, buffer: torch.Tensor | None) -> torch.Tensor:
    """`value` in `buffer`'s memory, where there is a buffer: its address stays valid."""
    return value if buffer is None else buffer.copy_(value)


def _num_rows(rows: slice) -> int:
    return int(rows.stop) - int(rows.start)
