"""What backends for 128 x 128 blocks share: which schemes these are, and a weight whose parts begin with whole blocks.

Products of others take one grid of scales, row of blocks after row of blocks. Fused parts that end within a block are
laid apart in a buffer of zeros, each at a multiple of 128 rows; what their product has too many of is left out.
"""

from __future__ import annotations

import torch

from fp8load.dtypes import DType
from fp8load.runtime.backend import Device, LinearWeights, Prepared
from fp8load.scheme import LinearScheme, PerBlock, PerGroup
from fp8load_kernels.derive import keep
from fp8load_kernels.few import by_blocks, by_groups
from fp8load_kernels.padding import aligned
from fp8load_kernels.quantizable import powers_of_two, refuses_bound
from fp8load_kernels.quantized import Quantized
from fp8load_kernels.shapes import NO_TRITON, has_triton

BLOCK = 128
HOPPER = (9, 0)


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
    return refuses_bound(scheme)


def refuses_any_blocks(scheme: LinearScheme) -> str:
    """Why a scheme is none of F8_E4M3 in blocks that the own products take; nothing where it is."""
    block = scheme.weight.granularity
    if isinstance(block, PerBlock) and (block.cols < 32 or block.cols & (block.cols - 1)):
        return f"takes blocks of 32, 64, 128 or more columns, a power of two, not {block.cols}"
    return refuses_blocks(scheme)


def refuses_hopper(scheme: LinearScheme, shape_NK: tuple[int, int], device: Device, rows: int) -> str:
    """Why a layer is none for a product of blocks of 128 x 128 on Hopper that takes N in multiples of `rows`."""
    reason = refuses_blocks(scheme)
    if reason:
        return reason
    if scheme.weight.granularity != PerBlock(BLOCK, BLOCK):
        return f"takes blocks of 128 x 128, not {scheme.weight.granularity}"
    if shape_NK[0] % rows or shape_NK[1] % BLOCK or min(shape_NK) < 1:
        return f"takes N in multiples of {rows} and K of 128, not {list(shape_NK)}"
    if device.kind != "cuda" or device.capability != HOPPER:
        return f"runs on compute capability 9.0, and this is {device}"
    return "" if has_triton() else NO_TRITON


def quantized_groups(prepared: Prepared, x_MK: torch.Tensor, *, by_column: bool = False) -> Quantized:
    """The input in groups of 128 as the scheme says, replayed; `by_column`: scales as `column_scales` lays them."""
    from fp8load_kernels.gpu.quantize import quantize_groups
    from fp8load_kernels.gpu.replay import replayed

    scheme, spec = prepared.weights.scheme, prepared.weights.scheme.input
    if spec is None:
        raise ValueError(f"{scheme} does not quantize its input")

    def compute() -> tuple[torch.Tensor, torch.Tensor]:
        scale = column_scales(*x_MK.shape, device=x_MK.device) if by_column else None
        q = quantize_groups(x_MK, spec.dtype, BLOCK, power_of_two=powers_of_two(scheme, spec), scale=scale)
        return q.codes, q.scale

    codes, scale = replayed(prepared, x_MK, None, compute, what="columns" if by_column else "rows")
    return Quantized(codes=codes, dtype=spec.dtype, scale=scale, cols=BLOCK)


def triton_product(
    prepared: Prepared, quantized: Quantized, dtype: torch.dtype, bias: torch.Tensor | None
) -> torch.Tensor:
    """The product by the own kernel, for what another does not take; biased in float32, rounded once."""
    if prepared.weight_scale is None:
        raise ValueError("the weight has no scale")
    weight = (prepared.weight, prepared.weight_scale)
    y_MN = by_blocks(quantized, weight, (BLOCK, BLOCK), dtype=dtype if bias is None else torch.float32)
    y_MN = put_together(y_MN, prepared.weights)
    return y_MN if bias is None else (y_MN + bias.float()).to(dtype)


def few_tokens(prepared: Prepared, x_MK: torch.Tensor) -> torch.Tensor:
    """The product of few tokens by the own kernel, quantization included; parts put together."""
    return put_together(by_groups(prepared, x_MK, None), prepared.weights)


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


def column_scales(num_tokens: int, num_cols: int, *, device: torch.device) -> torch.Tensor:
    """Memory for the scales of groups, [M, K / 128] column by column; columns begin at multiples of four elements."""
    memory = torch.empty(-(-num_cols // BLOCK), aligned(num_tokens, 4), device=device)
    return memory.t()[:num_tokens]
