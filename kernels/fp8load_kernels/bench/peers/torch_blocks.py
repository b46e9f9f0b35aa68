"""torch's product of 128 x 128 blocks on Hopper."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fp8load.runtime.backend import Device, LinearWeights, No, Verdict, Yes
from fp8load_kernels.bench.clock import Run
from fp8load_kernels.bench.peers.base import refuses_blocks_of
from fp8load_kernels.bench.peers.quantizers import per_group
from fp8load_kernels.padding import aligned


class TorchBlocks:
    """`F.scaled_mm`: its input's scales have to lie column by column, which costs a transposition."""

    name = "peer torch block"

    def supports(self, weights: LinearWeights, num_tokens: int, device: Device) -> Verdict:
        """Blocks on Hopper, tokens in multiples of four, torch 2.10."""
        reason = refuses_blocks_of(weights, device, 16)
        if not reason and num_tokens % 4:
            reason = f"takes tokens in multiples of 4, not {num_tokens}"
        if not reason and "scaled_mm" not in vars(F):
            reason = f"needs torch.nn.functional.scaled_mm, which torch {torch.__version__} does not have"
        return No(reason) if reason else Yes()

    def prepare(self, weights: LinearWeights, x_MK: torch.Tensor) -> Run:
        """The weight's scales laid out once; quantize, transpose scales, multiply."""
        scale = weights.scale_values()
        room = torch.zeros(scale.shape[0], aligned(scale.shape[1], 4), device=scale.device)
        room[:, : scale.shape[1]] = scale
        quantize, w_KN, kinds = per_group(x_MK), weights.weight.t(), F.ScalingType

        def run() -> torch.Tensor:
            codes, s_x = quantize()
            return F.scaled_mm(
                codes, w_KN, s_x.t().contiguous().t(), kinds.BlockWise1x128, room.t(), kinds.BlockWise128x128,
                output_dtype=torch.bfloat16,
            )  # fmt: skip

        return run
