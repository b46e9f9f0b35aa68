"""torch's product with a scale for each row of either operand."""

from __future__ import annotations

import torch

from fp8load.runtime.backend import Device, LinearWeights, No, Verdict, Yes
from fp8load_kernels.bench.clock import Run
from fp8load_kernels.bench.peers.base import refuses_rows
from fp8load_kernels.bench.peers.quantizers import per_token
from fp8load_kernels.derive import channel_scale


class TorchRows:
    """`torch._scaled_mm`, as engines call it: fast accumulation, which is torch's default for rows on Hopper."""

    name = "peer torch row"

    def supports(self, weights: LinearWeights, num_tokens: int, device: Device) -> Verdict:
        """Rows on CUDA, N and K in multiples of 16."""
        del num_tokens
        reason = refuses_rows(weights.scheme, device)
        if not reason and (weights.shape[0] % 16 or weights.shape[1] % 16):
            reason = f"takes N and K in multiples of 16, not {list(weights.shape)}"
        return No(reason) if reason else Yes()

    def prepare(self, weights: LinearWeights, x_MK: torch.Tensor) -> Run:
        """Quantize, multiply."""
        quantize, w_KN, scale = per_token(x_MK), weights.weight.t(), channel_scale(weights)

        def run() -> torch.Tensor:
            codes, s_x = quantize()
            return torch._scaled_mm(
                codes, w_KN, scale_a=s_x, scale_b=scale, out_dtype=torch.bfloat16, use_fast_accum=True
            )

        return run
