"""vLLM's CUTLASS product of 128 x 128 blocks."""

from __future__ import annotations

import torch

from fp8load.runtime.backend import Device, LinearWeights, No, Verdict, Yes
from fp8load_kernels.bench.clock import Run
from fp8load_kernels.bench.peers.base import refuses_blocks_of
from fp8load_kernels.bench.peers.quantizers import per_group
from fp8load_kernels.bench.peers.vllm import operators, refuses_library


class VllmBlocks:
    """`cutlass_scaled_mm` behind vLLM's quantization; the input's scales have to lie column by column."""

    name = "peer CUTLASS block"

    def supports(self, weights: LinearWeights, num_tokens: int, device: Device) -> Verdict:
        """Blocks on Hopper, tokens in multiples of four, and its library."""
        reason = refuses_blocks_of(weights, device, 128)
        if not reason and num_tokens % 4:
            reason = f"takes tokens in multiples of 4, not {num_tokens}"
        reason = reason or refuses_library()
        return No(reason) if reason else Yes()

    def prepare(self, weights: LinearWeights, x_MK: torch.Tensor) -> Run:
        """Quantize, transpose scales, multiply into one buffer."""
        quantize, w_KN, grid = per_group(x_MK), weights.weight.t(), weights.scale_values().t()
        y_MN = torch.empty(x_MK.shape[0], weights.shape[0], dtype=torch.bfloat16, device=x_MK.device)
        vllm = operators()

        def run() -> torch.Tensor:
            codes, s_x = quantize()
            vllm.cutlass_scaled_mm(y_MN, codes, w_KN, s_x.t().contiguous().t(), grid, None)
            return y_MN

        return run
