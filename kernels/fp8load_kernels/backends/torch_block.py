"""torch's own product for blocks of 128 x 128 on Hopper, and Triton's for few tokens."""

from __future__ import annotations

import torch

from fp8load.runtime.backend import Device, LinearWeights, No, Prepared, Verdict, Yes
from fp8load.scheme import LinearScheme, PerBlock
from fp8load_kernels.blocks import BLOCK, are_whole, column_scales, laid_apart, put_together, refuses_blocks, scales_of
from fp8load_kernels.padding import aligned
from fp8load_kernels.quantizable import powers_of_two
from fp8load_kernels.shapes import as_rows, like_input

CAPABILITY = (9, 0)
ALIGNMENT = 16
FEW = 64
"""Tokens up to which the Triton product is as fast or faster: measured on an H200, see docs/benchmarks."""


class TorchBlock:
    """`torch.nn.functional.scaled_mm`, 1 x 128 by 128 x 128; tokens are padded to a multiple of four.

    Its scales lie column by column, those of the weight with K / 128 padded to four: a buffer of its own.
    """

    name = "torch_block"

    def supports(self, scheme: LinearScheme, shape_NK: tuple[int, int], device: Device) -> Verdict:
        """F8_E4M3 in blocks of 128 x 128, inputs dynamic in groups of 128; compute capability 9.0, torch 2.10."""
        reason = refuses_blocks(scheme)
        if reason:
            return No(reason)
        if scheme.weight.granularity != PerBlock(BLOCK, BLOCK):
            return No(f"takes blocks of 128 x 128, not {scheme.weight.granularity}")
        if shape_NK[0] % ALIGNMENT or shape_NK[1] % BLOCK or min(shape_NK) < 1:
            return No(f"takes N in multiples of 16 and K of 128, not {list(shape_NK)}")
        if device.kind != "cuda" or device.capability != CAPABILITY:
            return No(f"runs on compute capability 9.0, and this is {device}")
        if not hasattr(torch.nn.functional, "scaled_mm"):
            return No(f"needs torch.nn.functional.scaled_mm, which torch {torch.__version__} does not have")
        return Yes()

    def prepare(self, weights: LinearWeights, previous: Prepared | None = None) -> Prepared:
        """The weight as it lies, or laid apart; its scales [R, G] in memory with room for a multiple of four."""
        old = None if previous is None or are_whole(weights) else previous.weight
        scale = weights.weight_scale
        if scale is None:
            raise ValueError("the weight has no scale")
        buffer = None if previous is None else previous.weight_scale
        if buffer is None:
            height, width = scale.shape
            buffer = torch.zeros(height, aligned(width, 4), device=scale.device)[:, :width]
        return Prepared(
            weights=weights, weight=laid_apart(weights, old), weight_scale=scales_of(weights, previous, buffer)
        )

    def apply(self, prepared: Prepared, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x [..., K] -> [..., N] in x's dtype."""
        from fp8load_kernels.gpu.block import block_product
        from fp8load_kernels.gpu.quantize import quantize_groups

        x_MK, scheme, scale = as_rows(x), prepared.weights.scheme, prepared.weight_scale
        if scale is None or scheme.input is None:
            raise ValueError(f"{scheme}: there is no scale")
        x_MK = x_MK if x_MK.stride(1) == 1 else x_MK.contiguous()
        num_tokens = x_MK.shape[0]
        power = powers_of_two(scheme, scheme.input)
        if num_tokens <= FEW or x.dtype != torch.bfloat16 or bias is not None:
            quantized = quantize_groups(x_MK, scheme.input.dtype, BLOCK, power_of_two=power)
            y_MN = block_product(
                quantized.codes, quantized.scale, prepared.weight, scale, None, (BLOCK, BLOCK),
                x.dtype if bias is None else torch.float32,
            )  # fmt: skip
            y_MN = put_together(y_MN, prepared.weights)
            return like_input(y_MN if bias is None else (y_MN + bias.float()).to(x.dtype), x)
        rows = aligned(num_tokens, 4)
        if rows != num_tokens:
            x_MK = torch.nn.functional.pad(x_MK, (0, 0, 0, rows - num_tokens))
        column = column_scales(rows, x_MK.shape[1], x.device)
        quantized = quantize_groups(x_MK, scheme.input.dtype, BLOCK, power_of_two=power, scale=column)
        kinds = torch.nn.functional.ScalingType
        y_MN = torch.nn.functional.scaled_mm(
            quantized.codes, prepared.weight.t(), column, kinds.BlockWise1x128, scale.t(), kinds.BlockWise128x128,
            output_dtype=torch.bfloat16,
        )  # fmt: skip
        return like_input(put_together(y_MN[:num_tokens], prepared.weights), x)
