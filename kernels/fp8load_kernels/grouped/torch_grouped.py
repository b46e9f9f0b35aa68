"""torch's grouped product on Hopper: FP8 with a scale for each row of either operand."""

from __future__ import annotations

import torch

from fp8load.runtime.activation import Activation
from fp8load.runtime.backend import Device, No, Verdict, Yes
from fp8load.runtime.grouped import GroupedPrepared, StackWeights
from fp8load.runtime.routing import Routing
from fp8load.scheme import LinearScheme
from fp8load_kernels.blocks import HOPPER
from fp8load_kernels.experts import RowsOfTokens, quantized_rows, refuses_rows
from fp8load_kernels.grouped.triton_grouped import prepared_stack, rows_of_tile, triton_product
from fp8load_kernels.shapes import NO_TRITON, has_triton

ALIGNMENT = 16
MOST_EXPERTS = 1023

MANY_ROWS = 128
"""Rows of an expert from which torch's product is faster, and SMALL the elements of an expert's weight below which it
never is: up to 1.9 times as slow there. Measured on an H200, see docs/benchmarks."""

SMALL = 1 << 23

NOTE = f"up to {MANY_ROWS // 2} tokens for each expert, and for small experts, the Triton product"


class TorchGrouped(RowsOfTokens):
    """`torch._scaled_grouped_mm`, [P, K] by [E, N, K]; rows are fetched before it, 8-bit codes with their scales.

    It gives BF16 and adds no bias: calls of another kind go to the own product, which rounds once, and so do few rows
    for each expert and small experts, for which that is faster.
    """

    name = "torch_grouped"

    def supports(self, scheme: LinearScheme, shape_ENK: tuple[int, int, int], device: Device) -> Verdict:
        """F8_E4M3: weights per tensor or channel, inputs per tensor or token; N and K multiples of 16, Hopper."""
        reason = refuses_rows(scheme)
        if reason:
            return No(reason)
        num_experts, num_rows, num_cols = shape_ENK
        if num_rows % ALIGNMENT or num_cols % ALIGNMENT or min(shape_ENK) < 1:
            return No(f"takes N and K in multiples of 16, not {[num_rows, num_cols]}")
        if num_experts > MOST_EXPERTS:
            return No(f"takes up to {MOST_EXPERTS} experts, not {num_experts}")
        if device.kind != "cuda" or device.capability != HOPPER:
            return No(f"runs on compute capability 9.0, and this is {device}")
        return Yes(NOTE) if has_triton() else No(NO_TRITON)

    def prepare(self, weights: StackWeights, previous: GroupedPrepared | None = None) -> GroupedPrepared:
        """The weight as it lies, and a scale for each row."""
        return prepared_stack(weights, previous)

    def alignment(self, num_pairs: int, shape_ENK: tuple[int, int, int]) -> int:
        """As the own product, which takes what this one does not; its own tiles are no smaller."""
        return rows_of_tile(num_pairs, shape_ENK)

    def apply(
        self,
        prepared: GroupedPrepared,
        x: torch.Tensor,
        routing: Routing,
        bias: torch.Tensor | None = None,
        activation: Activation | None = None,
    ) -> torch.Tensor:
        """Rows in x's dtype."""
        slower = routing.alignment < MANY_ROWS or prepared.weight[0].numel() < SMALL
        own = slower or x.dtype != torch.bfloat16 or bias is not None or not routing.num_rows
        scale = prepared.weight_scale
        rows = quantized_rows(prepared, x, routing, activation, fetched=not own)
        if own or scale is None:
            return triton_product(prepared, rows, routing, x.dtype, bias)
        return torch._scaled_grouped_mm(
            rows.codes, prepared.weight.transpose(1, 2), rows.scale.reshape(-1), scale,
            offs=routing.starts[1:], out_dtype=torch.bfloat16,
        )  # fmt: skip
