"""FP8 weights with scales of rows or of blocks on GPUs with FP8 units: an own Triton kernel, for every N and K."""

from __future__ import annotations

import torch

from fp8load.runtime.activation import Activation
from fp8load.runtime.backend import Device, No, Verdict, Yes
from fp8load.runtime.grouped import GroupedPrepared, StackWeights
from fp8load.runtime.routing import Routing
from fp8load.scheme import LinearScheme, PerBlock
from fp8load_kernels.blocks import refuses_any_blocks
from fp8load_kernels.derive import grid_rows
from fp8load_kernels.experts import (
    Rows,
    RowsOfTokens,
    block_scales,
    channel_scales,
    largest_input_scales,
    quantized_rows,
    refuses_rows,
)
from fp8load_kernels.quantize import CAPABILITY
from fp8load_kernels.shapes import NO_TRITON, has_triton


class TritonGrouped(RowsOfTokens):
    """FP8 codes times FP8 codes; weights are used where they lie, and tokens are fetched by the product itself.

    Beside the weight there is a scale for each row, where parts have one each, and for blocks the row of the grid that
    a row's scales stand in, where parts end within a block.
    """

    name = "triton_grouped"

    def supports(self, scheme: LinearScheme, shape_ENK: tuple[int, int, int], device: Device) -> Verdict:
        """F8_E4M3 per tensor, channel or block, inputs alike; CUDA from compute capability 8.9."""
        by_block = isinstance(scheme.weight.granularity, PerBlock)
        reason = refuses_any_blocks(scheme) if by_block else refuses_rows(scheme)
        if reason:
            return No(reason)
        if min(shape_ENK) < 1:
            return No(f"needs E, N and K of at least 1, not {list(shape_ENK)}")
        if device.kind != "cuda":
            return No(f"runs on CUDA, not on {device}")
        if device.capability is None or device.capability < CAPABILITY:
            return No(f"needs compute capability 8.9, and this is {device}")
        return Yes() if has_triton() else No(NO_TRITON)

    def prepare(self, weights: StackWeights, previous: GroupedPrepared | None = None) -> GroupedPrepared:
        """Views of the parameters, and what is beside them in memory that keeps its address."""
        return prepared_stack(weights, previous)

    def alignment(self, num_pairs: int, shape_ENK: tuple[int, int, int]) -> int:
        """The rows of a tile: 16 for few, 128 for many."""
        return rows_of_tile(num_pairs, shape_ENK)

    def apply(
        self,
        prepared: GroupedPrepared,
        x: torch.Tensor,
        routing: Routing,
        bias: torch.Tensor | None = None,
        activation: Activation | None = None,
    ) -> torch.Tensor:
        """Rows in x's dtype; scaled, summed and biased in float32, rounded once."""
        rows = quantized_rows(prepared, x, routing, activation)
        return triton_product(prepared, rows, routing, x.dtype, bias)


def prepared_stack(weights: StackWeights, previous: GroupedPrepared | None) -> GroupedPrepared:
    """What the own product takes: of blocks the grids as float32, else a scale for each row."""
    old = (None, None, None) if previous is None else (
        previous.weight_scale, previous.input_scale, previous.grid_rows
    )  # fmt: skip
    by_block = isinstance(weights.scheme.weight.granularity, PerBlock)
    return GroupedPrepared(
        weights=weights,
        weight=weights.weight,
        weight_scale=(block_scales if by_block else channel_scales)(weights, old[0]),
        input_scale=largest_input_scales(weights, old[1]) if weights.scheme.input_static else None,
        grid_rows=grid_rows(weights.expert(0), old[2]) if by_block else None,
    )


def rows_of_tile(num_pairs: int, shape_ENK: tuple[int, int, int]) -> int:
    """Rows of a tile of the own product, a power of two; whatever the scheme, so that w13 and w2 agree."""
    mean = -(-num_pairs // shape_ENK[0])
    return 16 if mean <= 16 else 32 if mean <= 32 else 64 if mean <= 64 else 128


def triton_product(
    prepared: GroupedPrepared, rows: Rows, routing: Routing, dtype: torch.dtype, bias: torch.Tensor | None
) -> torch.Tensor:
    """The product by the own kernel, also of what another backend does not take."""
    from fp8load_kernels.gpu.grouped import grouped_product

    if prepared.weight_scale is None:
        raise ValueError("the weight has no scale")
    block = prepared.weights.scheme.weight.granularity
    return grouped_product(
        rows.codes, rows.scale, prepared.weight, prepared.weight_scale, routing, by_token=rows.by_token, dtype=dtype,
        block=(block.rows, block.cols) if isinstance(block, PerBlock) else None, scale_row_N=prepared.grid_rows,
        bias=bias,
    )  # fmt: skip
