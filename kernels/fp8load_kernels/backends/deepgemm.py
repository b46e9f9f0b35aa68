"""DeepGEMM for blocks of 128 x 128 on Hopper: `pip install fp8load[deepgemm]`."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from fp8load.runtime.backend import Device, LinearWeights, No, Prepared, Verdict, Yes
from fp8load.scheme import LinearScheme, PerBlock
from fp8load_kernels.blocks import BLOCK, are_whole, column_scales, laid_apart, put_together, refuses_blocks, scales_of
from fp8load_kernels.quantizable import powers_of_two
from fp8load_kernels.shapes import as_rows, like_input

CAPABILITY = (9, 0)
ALIGNMENT = 64


class DeepGemm:
    """`deep_gemm.fp8_gemm_nt`, compiled for each size when it first comes; scales written as it wants them.

    For BF16 without a bias; other layers' calls go to the Triton product, which rounds once.
    """

    name = "deepgemm"

    def supports(self, scheme: LinearScheme, shape_NK: tuple[int, int], device: Device) -> Verdict:
        """F8_E4M3 in blocks of 128 x 128, inputs dynamic in groups of 128; compute capability 9.0."""
        reason = refuses_blocks(scheme)
        if reason:
            return No(reason)
        if scheme.weight.granularity != PerBlock(BLOCK, BLOCK):
            return No(f"takes blocks of 128 x 128, not {scheme.weight.granularity}")
        if shape_NK[0] % ALIGNMENT or shape_NK[1] % BLOCK or min(shape_NK) < 1:
            return No(f"takes N in multiples of 64 and K of 128, not {list(shape_NK)}")
        if device.kind != "cuda" or device.capability != CAPABILITY:
            return No(f"runs on compute capability 9.0, and this is {device}")
        if find_spec("deep_gemm") is None:
            return No("needs deep_gemm, which is not installed: pip install fp8load[deepgemm]")
        return Yes()

    def prepare(self, weights: LinearWeights, previous: Prepared | None = None) -> Prepared:
        """Weight and scales as views; a copy where fused parts end within a block."""
        old = None if previous is None or are_whole(weights) else previous.weight
        return Prepared(weights=weights, weight=laid_apart(weights, old), weight_scale=scales_of(weights, previous))

    def apply(self, prepared: Prepared, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x [..., K] -> [..., N] in x's dtype."""
        from fp8load_kernels.gpu.block import block_product
        from fp8load_kernels.gpu.quantize import quantize_groups

        x_MK, scheme, scale = as_rows(x), prepared.weights.scheme, prepared.weight_scale
        if scale is None or scheme.input is None:
            raise ValueError(f"{scheme}: there is no scale")
        x_MK = x_MK if x_MK.stride(1) == 1 else x_MK.contiguous()
        num_tokens, num_cols = x_MK.shape
        if num_tokens == 0:
            return like_input(x.new_empty(0, prepared.weights.shape[0]), x)
        column = column_scales(num_tokens, num_cols, x.device)
        power = powers_of_two(scheme, scheme.input)
        quantized = quantize_groups(x_MK, scheme.input.dtype, BLOCK, power_of_two=power, scale=column)
        if x.dtype != torch.bfloat16 or bias is not None:
            y_MN = block_product(
                quantized.codes, column, prepared.weight, scale, None, (BLOCK, BLOCK), torch.float32
            )  # fmt: skip
            y_MN = put_together(y_MN, prepared.weights)
            return like_input((y_MN if bias is None else y_MN + bias.float()).to(x.dtype), x)
        import deep_gemm

        y_MN = torch.empty(num_tokens, prepared.weight.shape[0], dtype=x.dtype, device=x.device)
        deep_gemm.fp8_gemm_nt((quantized.codes, column), (prepared.weight, scale), y_MN)
        return like_input(put_together(y_MN, prepared.weights), x)
