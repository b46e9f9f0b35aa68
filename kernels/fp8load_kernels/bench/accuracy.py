"""How far a product is from the truth: the float64 product of the dequantized operands.

A backend may honour the scheme's quantization of the input, as engines do, or multiply the input as it is, as
`reference` and an unquantized peer do. Each is measured against its own truth; what is near neither is wrong.

Shape letters: M tokens, R of them that are looked at, N output rows, K input columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fp8load.runtime.backend import Backend, LinearWeights
from fp8load.scheme import LinearScheme, Transform
from fp8load_kernels.bench.operands import random_input, random_weights
from fp8load_kernels.derive import largest_input_global, largest_input_scale
from fp8load_kernels.quantize import quantize_input

TOLERANCE = 1e-2
"""Relative Frobenius norm of the difference: tensor cores of Hopper add FP8 products with fewer bits than float32."""

MOST_TOKENS = 256
"""Tokens whose products are looked at, evenly spread, the first and the last among them: rows do not depend on others,
except through the scale of a dynamically quantized tensor, which is of all."""

TRIAL_PARTS, TRIAL_COLS, TRIAL_TOKENS = (("a", 256), ("b", 128)), 512, 17


@dataclass(frozen=True, slots=True)
class Truth:
    """Products in float64 [R, N]: of the quantized input (the same, where the scheme quantizes none), and as it is."""

    rows: torch.Tensor
    quantized: torch.Tensor
    plain: torch.Tensor

    @staticmethod
    def of(weights: LinearWeights, x_MK: torch.Tensor) -> Truth:
        """The truth about a layer and an input."""
        num_tokens = x_MK.shape[0]
        count = min(num_tokens, MOST_TOKENS)
        rows = torch.linspace(0, num_tokens - 1, count, dtype=torch.float64).round().long().to(x_MK.device)
        plain = x_MK[rows].double() @ weights.dequantize().double().T
        scheme = weights.scheme
        return Truth(rows, plain if scheme.input is None else _quantized(weights, x_MK.float(), rows), plain)

    def error(self, y_MN: torch.Tensor) -> float:
        """Relative Frobenius norm of the difference from the nearer truth; NaN where the product has one."""
        y_RN = y_MN[self.rows].double()
        found = ((y_RN - truth).norm() / truth.norm() for truth in (self.quantized, self.plain))
        return min(float(error.item()) for error in found)


def _quantized(weights: LinearWeights, x_MK: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The product of the input as the scheme quantizes it, part by part where each scales its own."""
    scheme = weights.scheme
    static, multiplier = largest_input_scale(weights), largest_input_global(weights)
    if not scheme.transforms:
        values = quantize_input(x_MK, scheme, static, multiplier).dequantize()[rows]
        return values.double() @ weights.dequantize().double().T
    found = []
    for i in range(len(weights.parts)):
        factor, residual = weights.input_factor(i), weights.residual(i)
        scaled = x_MK if factor is None else x_MK * factor
        values = quantize_input(scaled, scheme, static, multiplier).dequantize()[rows]
        y_RN = values.double() @ weights.stored(i).double().T
        if residual is not None and Transform.LOW_RANK_RESIDUAL in scheme.transforms:
            y_RN += scaled[rows].double() @ residual[0].double().T @ residual[1].double().T
        found.append(y_RN)
    return torch.cat(found, dim=1)


def trial(backend: Backend, scheme: LinearScheme, device: torch.device, seed: int = 0) -> float:
    """Run a backend on a small layer of two parts, random operands; its error. Raises whatever the backend raises."""
    generator = torch.Generator(device).manual_seed(seed)
    weights = random_weights(scheme, TRIAL_PARTS, TRIAL_COLS, generator)
    x = random_input(TRIAL_TOKENS, TRIAL_COLS, generator)
    y = backend.apply(backend.prepare(weights), x)
    return Truth.of(weights, x).error(y)
