"""vLLM's CUTLASS product with a scale for each row of either operand."""

from __future__ import annotations

import torch

from fp8load.runtime.backend import Device, LinearWeights, No, Verdict, Yes
from fp8load_kernels.bench.clock import Run
from fp8load_kernels.bench.peers.base import refuses_rows
from fp8load_kernels.bench.peers.quantizers import per_token
from fp8load_kernels.bench.peers.vllm import operators, refuses_library
from fp8load_kernels.derive import channel_scale


class VllmRows:
    """`cutlass_scaled_mm` behind vLLM's quantization."""

    name = "peer CUTLASS row"

    def supports(self, weights: LinearWeights, num_tokens: int, device: Device) -> Verdict:
        """Rows on CUDA, N and K in multiples of 16, and its library."""
        del num_tokens
        reason = refuses_rows(weights.scheme, device)
        if not reason and (weights.shape[0] % 16 or weights.shape[1] % 16):
            reason = f"takes N and K in multiples of 16, not {list(weights.shape)}"
        reason = reason or refuses_library()
        return No(reason) if reason else Yes()

    def prepare(self, weights: LinearWeights, x_MK: torch.Tensor) -> Run:
        """Quantize, multiply into one buffer."""
        quantize, w_KN, scale = per_token(x_MK), weights.weight.t(), channel_scale(weights).t().contiguous()
        y_MN = torch.empty(x_MK.shape[0], weights.shape[0], dtype=torch.bfloat16, device=x_MK.device)
        vllm = operators()

        def run() -> torch.Tensor:
            codes, s_x = quantize()
            vllm.cutlass_scaled_mm(y_MN, codes, w_KN, s_x, scale, None)
            return y_MN

        return run
