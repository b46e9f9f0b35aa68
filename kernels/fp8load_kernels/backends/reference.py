"""Weight-only arithmetic in float32: what every other backend is measured against."""

from __future__ import annotations

import torch

from fp8load.runtime.backend import Device, LinearWeights, Prepared, Verdict
from fp8load.scheme import LinearScheme
from fp8load_kernels.dequantizable import dequantizable


class Reference:
    """x.float() @ dequantize(W).T + bias, float32; the input is not quantized, whatever the scheme says.

    Runs every scheme that can be dequantized, on every device. Keeps no copy of the weight: it is dequantized for each
    call, N * K * 4 bytes.
    """

    name = "reference"

    def supports(self, scheme: LinearScheme, shape_NK: tuple[int, int], device: Device) -> Verdict:
        """Whether the weight can be dequantized."""
        del shape_NK, device
        return dequantizable(scheme)

    def prepare(self, weights: LinearWeights, previous: Prepared | None = None) -> Prepared:
        """Nothing to prepare: everything is a view of the parameters."""
        del previous
        return Prepared(weights=weights, weight=weights.weight)

    def apply(self, prepared: Prepared, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x [..., K] -> float32 [..., N]."""
        y = x.float() @ prepared.weights.dequantize().T
        return y if bias is None else y + bias.float()
