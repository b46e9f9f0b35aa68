"""What backends for 128 x 128 blocks share: which schemes these are, and a weight whose parts begin with whole blocks.

Products of others take one grid of scales, row of blocks after row of blocks. Fused parts that end within a block are
laid apart in a buffer of zeros, each at a multiple of 128 rows; what their product has too many of is left out.
"""

from __future__ import annotations

import torch

from fp8load.dtypes import DType
from fp8load.runtime.backend import LinearWeights, Prepared
from fp8load.scheme import LinearScheme, PerBlock, PerGroup
from fp8load_kernels.derive import keep
from fp8load_kernels.padding import aligned

BLOCK = 128


def refuses_blocks(scheme: LinearScheme) -> str:
    """Why a scheme is none of F8_E4M3 in blocks with dynamic inputs in groups as wide; nothing where it is."""
    block, given = scheme.weight.granularity, scheme.input
    if given is None:
        return "quantizes the input, and the scheme is weight-only"
    if scheme.weight.dtype is not DType.F8_E4M3 or given.dtype is not DType.F8_E4M3:
        return f"takes F8_E4M3, not weights of {scheme.weight.dtype} and inputs of {given.dtype}"
    if not isinstance(block, PerBlock):
        return f"takes weights scaled in blocks, not {block}"
    if scheme.input_static or given.granularity != PerGroup(block.cols):
        return f"takes dynamic inputs in groups of {block.cols}, not {given.granularity}"
    if scheme.second_level or scheme.input_global or scheme.transforms or scheme.storage.transposed:
        return "takes plain [N, K] weights, and one level of scales for either operand"
    return ""


def starts(weights: LinearWeights) -> list[int]:
    """Where each part begins when all begin with a whole block, and where the last one ends."""
    found = [0]
    for part in weights.parts:
        found.append(found[-1] + aligned(part.rows.stop - part.rows.start, BLOCK))
    return found


def are_whole(weights: LinearWeights) -> bool:
    """Whether parts begin with whole blocks where they lie."""
    return [part.rows.start for part in weights.parts] == starts(weights)[:-1]


def laid_apart(weights: LinearWeights, buffer: torch.Tensor | None = None) -> torch.Tensor:
    """The weight with parts at whole blocks: itself, or a copy in a buffer of zeros, which an earlier call gave."""
    if are_whole(weights):
        return weights.weight
    at = starts(weights)
    if buffer is None:
        size = (at[-1], weights.weight.shape[1])
        buffer = torch.zeros(size, dtype=torch.uint8, device=weights.weight.device).view(weights.weight.dtype)
    for begin, part in zip(at, weights.parts, strict=False):
        buffer[begin : begin + part.rows.stop - part.rows.start].copy_(weights.weight[part.rows])
    return buffer


def scales_of(weights: LinearWeights, previous: Prepared | None, buffer: torch.Tensor | None = None) -> torch.Tensor:
    """The grid of scales as float32 numbers: the parameter where it is that, else in memory that keeps its address."""
    wide = weights.scale_values()
    if weights.weight_scale is not None and weights.weight_scale.dtype == torch.float32 and buffer is None:
        return wide
    if buffer is None and previous is not None:
        buffer = previous.weight_scale
    return keep(wide, buffer)


def put_together(y_MN: torch.Tensor, weights: LinearWeights) -> torch.Tensor:
    """Columns of a product with parts laid apart, one part after the other."""
    if are_whole(weights):
        return y_MN[:, : weights.shape[0]]
    at = starts(weights)
    parts = [
        y_MN[:, begin : begin + part.rows.stop - part.rows.start]
        for begin, part in zip(at, weights.parts, strict=False)
    ]
    return torch.cat(parts, dim=1)


def column_scales(num_tokens: int, num_cols: int, device: torch.device, *, rows: int = 4) -> torch.Tensor:
    """Memory for the scales of groups, [M, K / 128] column by column, whose columns are aligned to `rows` elements."""
    memory = torch.empty(-(-num_cols // BLOCK), aligned(num_tokens, rows), device=device)
    return memory.t()[:num_tokens]
