"""Blocks of scales on GPUs with FP8 units: an own Triton kernel, for every size and for fused parts of any size."""

from __future__ import annotations

import torch

from fp8load.runtime.backend import Device, LinearWeights, No, Prepared, Verdict, Yes
from fp8load.scheme import LinearScheme, PerBlock
from fp8load_kernels.blocks import refuses_any_blocks, scales_of
from fp8load_kernels.derive import grid_rows
from fp8load_kernels.few import by_blocks, by_groups
from fp8load_kernels.quantize import CAPABILITY, converts_to_e4m3, quantize_input
from fp8load_kernels.shapes import NO_TRITON, as_rows, contiguous_columns, has_triton, like_input


class TritonBlock:
    """FP8 codes times FP8 codes, scaled in float32 for each group of K; nothing is padded or copied.

    The weight is used where it lies. Beside it there is one number for each row, where fused parts end within a block:
    the row of the grid that its scales stand in.
    """

    name = "triton_block"

    def supports(self, scheme: LinearScheme, shape_NK: tuple[int, int], device: Device) -> Verdict:
        """F8_E4M3 in blocks, inputs dynamic in groups as wide as the blocks; CUDA from compute capability 8.9."""
        reason = refuses_any_blocks(scheme)
        if reason:
            return No(reason)
        if min(shape_NK) < 1:
            return No(f"needs N and K of at least 1, not {list(shape_NK)}")
        if device.kind != "cuda":
            return No(f"runs on CUDA, not on {device}")
        if device.capability is None or device.capability < CAPABILITY:
            return No(f"needs compute capability 8.9, and this is {device}")
        return Yes() if has_triton() else No(NO_TRITON)

    def prepare(self, weights: LinearWeights, previous: Prepared | None = None) -> Prepared:
        """The weight and its scales as views, and the map of rows, where one is needed."""
        return Prepared(
            weights=weights, weight=weights.weight, weight_scale=scales_of(weights, previous),
            grid_rows=grid_rows(weights, None if previous is None else previous.grid_rows),
        )  # fmt: skip

    def apply(self, prepared: Prepared, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x [..., K] -> [..., N] in x's dtype."""
        x_MK, scheme = as_rows(x), prepared.weights.scheme
        block, scale = scheme.weight.granularity, prepared.weight_scale
        if not isinstance(block, PerBlock) or scale is None:
            raise TypeError(f"blocks have scales: {scheme}")
        if x_MK.is_cuda and converts_to_e4m3(x_MK.device):
            return like_input(by_groups(prepared, contiguous_columns(x_MK), bias), x)
        quantized = quantize_input(x_MK, scheme, None)
        sizes = (block.rows, block.cols)
        y_MN = by_blocks(
            quantized, (prepared.weight, scale), sizes, dtype=x.dtype, bias=bias, row_of=prepared.grid_rows
        )
        return like_input(y_MN, x)
