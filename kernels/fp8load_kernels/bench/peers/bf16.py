"""The same layer without quantization: F.linear in BF16."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fp8load.runtime.backend import Device, LinearWeights, Verdict, Yes
from fp8load_kernels.bench.clock import Run


class BF16:
    """What everything is compared with; runs everywhere. Its weight is the dequantized one, rounded to BF16."""

    name = "bf16"

    def supports(self, weights: LinearWeights, num_tokens: int, device: Device) -> Verdict:
        """Always."""
        del weights, num_tokens, device
        return Yes()

    def prepare(self, weights: LinearWeights, x_MK: torch.Tensor) -> Run:
        """One product."""
        w_NK = weights.dequantize().to(torch.bfloat16)
        return lambda: F.linear(x_MK, w_NK)
