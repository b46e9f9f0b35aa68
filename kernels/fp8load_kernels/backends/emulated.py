"""What an engine with an FP8, MX or FP4 kernel computes, without one: quantize the input, then multiply in float32."""

from __future__ import annotations

import torch

from fp8load.runtime.backend import Device, LinearWeights, No, Prepared, Verdict
from fp8load.scheme import LinearScheme
from fp8load_kernels.dequantizable import dequantizable
from fp8load_kernels.derive import largest_input_global, largest_input_scale
from fp8load_kernels.quantizable import input_kind
from fp8load_kernels.quantize import quantize_input
from fp8load_kernels.shapes import as_rows, like_input


class Emulated:
    """The scheme's input quantization (none for weight-only schemes), and a float32 product of dequantized operands.

    Runs on every device. Keeps no copy of the weight: it is dequantized for each call, N * K * 4 bytes.
    """

    name = "emulated"

    def supports(self, scheme: LinearScheme, shape_NK: tuple[int, int], device: Device) -> Verdict:
        """Whether the weight can be dequantized, and the input quantized as the scheme says."""
        del shape_NK, device
        kind = input_kind(scheme)
        return kind if isinstance(kind, No) else dequantizable(scheme)

    def prepare(self, weights: LinearWeights, previous: Prepared | None = None) -> Prepared:
        """The input scales of the fused layer; the weight stays a view of its parameter."""
        old_input = None if previous is None else previous.input_scale
        old_global = None if previous is None else previous.input_global_scale
        return Prepared(
            weights=weights,
            weight=weights.weight,
            input_scale=largest_input_scale(weights, old_input),
            input_global_scale=largest_input_global(weights, old_global),
        )

    def apply(self, prepared: Prepared, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x [..., K] -> [..., N] in x's dtype."""
        x_MK = as_rows(x).float()
        scheme = prepared.weights.scheme
        if scheme.input is not None:
            x_MK = quantize_input(x_MK, scheme, prepared.input_scale, prepared.input_global_scale).dequantize()
        y_MN = x_MK @ prepared.weights.dequantize().T
        if bias is not None:
            y_MN += bias.float()
        return like_input(y_MN.to(x.dtype), x)
