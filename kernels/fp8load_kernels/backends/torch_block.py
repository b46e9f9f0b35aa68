"""torch's own product for blocks of 128 x 128 on Hopper, and Triton's for few tokens."""

from __future__ import annotations

import torch

from fp8load.runtime.backend import Device, LinearWeights, No, Prepared, Verdict, Yes
from fp8load.scheme import LinearScheme
from fp8load_kernels.blocks import (
    are_whole,
    few_tokens,
    laid_apart,
    put_together,
    quantized_groups,
    refuses_hopper,
    scales_of,
    triton_product,
)
from fp8load_kernels.few import FEW_BLOCKS
from fp8load_kernels.padding import aligned
from fp8load_kernels.shapes import as_rows, contiguous_columns, like_input

ALIGNMENT = 16


class TorchBlock:
    """`torch.nn.functional.scaled_mm`, 1 x 128 by 128 x 128; tokens are padded to a multiple of four.

    Its scales lie column by column, those of the weight with K / 128 padded to four: a buffer of its own.
    """

    name = "torch_block"

    def supports(self, scheme: LinearScheme, shape_NK: tuple[int, int], device: Device) -> Verdict:
        """F8_E4M3 in blocks of 128 x 128, inputs dynamic in groups of 128; compute capability 9.0, torch 2.10."""
        reason = refuses_hopper(scheme, shape_NK, device, ALIGNMENT)
        if reason:
            return No(reason)
        if not hasattr(torch.nn.functional, "scaled_mm"):
            return No(f"needs torch.nn.functional.scaled_mm, which torch {torch.__version__} does not have")
        return Yes(f"up to {FEW_BLOCKS} tokens, and for other dtypes than BF16, the Triton product")

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
        x_MK, scale = contiguous_columns(as_rows(x)), prepared.weight_scale
        num_tokens = x_MK.shape[0]
        if 0 < num_tokens <= FEW_BLOCKS and bias is None:
            return like_input(few_tokens(prepared, x_MK), x)
        if scale is None or num_tokens <= FEW_BLOCKS or x.dtype != torch.bfloat16 or bias is not None:
            return like_input(triton_product(prepared, quantized_groups(prepared, x_MK), x.dtype, bias), x)
        rows = aligned(num_tokens, 4)
        if rows != num_tokens:
            x_MK = torch.nn.functional.pad(x_MK, (0, 0, 0, rows - num_tokens))
        quantized = quantized_groups(prepared, x_MK, by_column=True)
        kinds = torch.nn.functional.ScalingType
        y_MN = torch.nn.functional.scaled_mm(
            quantized.codes, prepared.weight.t(), quantized.scale, kinds.BlockWise1x128,
            _with_room(scale).t(), kinds.BlockWise128x128,
            output_dtype=torch.bfloat16,
        )  # fmt: skip
        return like_input(put_together(y_MN[:num_tokens], prepared.weights), x)


def _with_room(scale_RG: torch.Tensor) -> torch.Tensor:
    """The scales and the columns that fill them up to a multiple of four, which torch wants to be given too."""
    return scale_RG.as_strided((scale_RG.shape[0], scale_RG.stride(0)), scale_RG.stride())
