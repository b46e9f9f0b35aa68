"""DeepGEMM, called as its own examples do: scales transposed for it before each product."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from fp8load.runtime.backend import Device, LinearWeights, No, Verdict, Yes
from fp8load_kernels.bench.clock import Run
from fp8load_kernels.bench.peers.base import refuses_blocks_of
from fp8load_kernels.bench.peers.quantizers import per_group


class DeepGemmBlocks:
    """`deep_gemm.fp8_gemm_nt`: sgl-deep-gemm==0.1.5 runs with torch 2.11, and needs nvcc."""

    name = "peer DeepGEMM"

    def supports(self, weights: LinearWeights, num_tokens: int, device: Device) -> Verdict:
        """Blocks on Hopper."""
        del num_tokens
        reason = refuses_blocks_of(weights, device, 64)
        if not reason and find_spec("deep_gemm") is None:
            reason = "deep_gemm is not installed: pip install fp8load[deepgemm]"
        return No(reason) if reason else Yes()

    def prepare(self, weights: LinearWeights, x_MK: torch.Tensor) -> Run:
        """Quantize, transpose scales, multiply into one buffer."""
        import deep_gemm

        quantize, w = per_group(x_MK), (weights.weight, weights.scale_values())
        y_MN = torch.empty(x_MK.shape[0], weights.shape[0], dtype=torch.bfloat16, device=x_MK.device)

        def run() -> torch.Tensor:
            codes, s_x = quantize()
            deep_gemm.fp8_gemm_nt((codes, deep_gemm.get_mn_major_tma_aligned_tensor(s_x)), w, y_MN)
            return y_MN

        return run
