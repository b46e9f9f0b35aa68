"""DeepGEMM for blocks of 128 x 128 on Hopper: `pip install fp8load[deepgemm]`."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from fp8load.runtime.backend import Device, LinearWeights, No, Prepared, Verdict, Yes
from fp8load.scheme import LinearScheme
from fp8load_kernels.blocks import (
    are_whole,
    column_scales,
    laid_apart,
    put_together,
    quantized_groups,
    refuses_hopper,
    scales_of,
    triton_product,
)
from fp8load_kernels.few import FEW_BLOCKS
from fp8load_kernels.shapes import as_rows, contiguous_columns, like_input

ALIGNMENT = 64


class DeepGemm:
    """`deep_gemm.fp8_gemm_nt`, compiled for each size when it first comes; scales written as it wants them.

    For BF16 without a bias and more than 32 tokens; other calls go to the Triton product, which rounds once.
    """

    name = "deepgemm"

    def supports(self, scheme: LinearScheme, shape_NK: tuple[int, int], device: Device) -> Verdict:
        """F8_E4M3 in blocks of 128 x 128, inputs dynamic in groups of 128; compute capability 9.0."""
        reason = refuses_hopper(scheme, shape_NK, device, ALIGNMENT)
        if reason:
            return No(reason)
        if find_spec("deep_gemm") is None:
            return No("needs deep_gemm, which is not installed: pip install fp8load[deepgemm]")
        return Yes(f"up to {FEW_BLOCKS} tokens, and for other dtypes than BF16, the Triton product")

    def prepare(self, weights: LinearWeights, previous: Prepared | None = None) -> Prepared:
        """Weight and scales as views; a copy where fused parts end within a block."""
        old = None if previous is None or are_whole(weights) else previous.weight
        return Prepared(weights=weights, weight=laid_apart(weights, old), weight_scale=scales_of(weights, previous))

    def apply(self, prepared: Prepared, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x [..., K] -> [..., N] in x's dtype."""
        x_MK = contiguous_columns(as_rows(x))
        num_tokens, num_cols = x_MK.shape
        if num_tokens == 0:
            return like_input(x.new_empty(0, prepared.weights.shape[0]), x)
        if num_tokens <= FEW_BLOCKS or x.dtype != torch.bfloat16 or bias is not None:
            return like_input(triton_product(prepared, quantized_groups(prepared, x_MK), x.dtype, bias), x)
        column = column_scales(num_tokens, num_cols, x.device)
        quantized = quantized_groups(prepared, x_MK, column)
        import deep_gemm

        y_MN = torch.empty(num_tokens, prepared.weight.shape[0], dtype=x.dtype, device=x.device)
        deep_gemm.fp8_gemm_nt((quantized.codes, column), (prepared.weight, prepared.weight_scale), y_MN)
        return like_input(put_together(y_MN, prepared.weights), x)
