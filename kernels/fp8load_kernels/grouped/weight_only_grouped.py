"""Weights of 8 and 4 bits under inputs of 16, for all experts at once: a Triton kernel for every scheme and GPU."""

from __future__ import annotations

import torch

from fp8load.runtime.activation import Activation
from fp8load.runtime.backend import Device, No, Verdict
from fp8load.runtime.grouped import GroupedPrepared, StackWeights
from fp8load.runtime.routing import Routing
from fp8load.scheme import LinearScheme, PerBlock
from fp8load_kernels.backends.weight_only import BY_ROW, coded, weight_only
from fp8load_kernels.derive import grid_rows
from fp8load_kernels.experts import RowsOfTokens, between, row_factors
from fp8load_kernels.grouped.triton_grouped import rows_of_tile
from fp8load_kernels.shapes import contiguous_columns


class WeightOnlyGrouped(RowsOfTokens):
    """The input as it comes, each expert's weight unpacked in the kernel; `TritonWeightOnly` for stacks.

    A scheme that quantizes its input runs too, more exactly than it says: as engines do on GPUs without FP8 or FP4.
    """

    name = "weight_only_grouped"

    def supports(self, scheme: LinearScheme, shape_ENK: tuple[int, int, int], device: Device) -> Verdict:
        """FP8, INT8, FP4 and INT4, scaled per tensor, channel, block or group; compute capability 8.0."""
        if shape_ENK[0] < 1:
            return No(f"needs E of at least 1, not {list(shape_ENK)}")
        return weight_only(scheme, shape_ENK[1:], device)

    def prepare(self, weights: StackWeights, previous: GroupedPrepared | None = None) -> GroupedPrepared:
        """Everything as it lies; scales of tensors and channels, and second levels, spread over rows."""
        granularity = weights.scheme.weight.granularity
        old_rows, old_factor = (None, None) if previous is None else (previous.grid_rows, previous.row_factor)
        return GroupedPrepared(
            weights=weights,
            weight=weights.weight,
            weight_scale=None if isinstance(granularity, BY_ROW) else weights.weight_scale,
            grid_rows=grid_rows(weights.expert(0), old_rows) if isinstance(granularity, PerBlock) else None,
            row_factor=row_factors(weights, old_factor),
        )

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
        from fp8load_kernels.gpu.weight_only_grouped import grouped_weight_only

        rows = contiguous_columns(x)
        if activation is not None:
            rows = between(rows, activation, routing)
        w = coded(prepared.weights.scheme, prepared.weights.shape[1:], prepared)
        return grouped_weight_only(rows, w, routing, by_token=activation is None, bias=bias)
