"""DeepGEMM's grouped product for blocks of 128 x 128 on Hopper: `pip install fp8load[deepgemm]`."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from fp8load.runtime.activation import Activation
from fp8load.runtime.backend import Device, No, Verdict, Yes
from fp8load.runtime.grouped import GroupedPrepared, StackWeights
from fp8load.runtime.routing import Routing
from fp8load.scheme import LinearScheme
from fp8load_kernels.blocks import refuses_hopper
from fp8load_kernels.experts import RowsOfTokens, quantized_rows
from fp8load_kernels.grouped.triton_grouped import prepared_stack, rows_of_tile, triton_product

ROWS = 128
"""What rows of an expert are aligned to: `deep_gemm.get_mk_alignment_for_contiguous_layout()`."""


FEW = 16
"""Rows of an expert, on the average, up to which the own product is faster: 1.5 times for DeepSeek-V3's 256 experts,
most of which have none. Measured on an H200, see docs/benchmarks."""


class DeepGemmGrouped(RowsOfTokens):
    """`deep_gemm.m_grouped_fp8_gemm_nt_contiguous`; rows of nobody are marked by -1 and skipped by the tile.

    For BF16 without a bias, parts that are whole blocks, and more than a few rows for each expert; other calls go to
    the own product.
    """

    name = "deepgemm_grouped"

    def supports(self, scheme: LinearScheme, shape_ENK: tuple[int, int, int], device: Device) -> Verdict:
        """F8_E4M3 in blocks of 128 x 128, inputs dynamic in groups of 128; compute capability 9.0."""
        reason = refuses_hopper(scheme, shape_ENK[1:], device, 64)
        if reason:
            return No(reason)
        if find_spec("deep_gemm") is None:
            return No("needs deep_gemm, which is not installed: pip install fp8load[deepgemm]")
        return Yes(f"up to {FEW} tokens for each expert the Triton product")

    def prepare(self, weights: StackWeights, previous: GroupedPrepared | None = None) -> GroupedPrepared:
        """Weight and grids of scales as views; exponents are decoded beside them."""
        return prepared_stack(weights, previous)

    def alignment(self, num_pairs: int, shape_ENK: tuple[int, int, int]) -> int:
        """128 rows, or as the own product where experts have few on the average."""
        return rows_of_tile(num_pairs, shape_ENK) if num_pairs <= FEW * shape_ENK[0] else ROWS

    def apply(
        self,
        prepared: GroupedPrepared,
        x: torch.Tensor,
        routing: Routing,
        bias: torch.Tensor | None = None,
        activation: Activation | None = None,
    ) -> torch.Tensor:
        """Rows in x's dtype."""
        own = routing.alignment != ROWS or x.dtype != torch.bfloat16 or bias is not None or not routing.num_rows
        own = own or prepared.grid_rows is not None
        rows = quantized_rows(prepared, x, routing, activation, fetched=not own, columns=not own)
        if own or prepared.weight_scale is None:
            return triton_product(prepared, rows, routing, x.dtype, bias)
        import deep_gemm

        y_PN = torch.empty(routing.num_rows, prepared.weights.shape[1], dtype=x.dtype, device=x.device)
        deep_gemm.m_grouped_fp8_gemm_nt_contiguous(
            (rows.codes, rows.scale), (prepared.weight, prepared.weight_scale), y_PN, routing.expert
        )
        return y_PN
