"""How far a product is from the truth: the float64 product of the dequantized operands.

A backend may honour the scheme's quantization of the input, as engines do, or multiply the input as it is, as
`reference` and an unquantized peer do. Each is measured against its own truth; what is near neither is wrong. Both
truths are computed by `exact`, which shares nothing with backends: a fault of the quantizer that they share is seen.

Shape letters: M tokens, R of them that are looked at, N output rows, K input columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

import torch

from fp8load.runtime.backend import Backend, LinearWeights
from fp8load.runtime.grouped import GroupedBackend, GroupedPrepared, StackWeights
from fp8load.scheme import LinearScheme, Transform
from fp8load_kernels.bench.exact import exact_input, exact_weight, residual_of
from fp8load_kernels.bench.operands import random_input, random_weights

TOLERANCE = 1e-2
"""Relative Frobenius norm of the difference: tensor cores of Hopper add FP8 products with fewer bits than float32."""

MOST_TOKENS = 256
"""Tokens whose products are looked at, evenly spread, the first and the last among them: rows do not depend on others,
except through the scale of a dynamically quantized tensor, which is of all."""

TRIAL_PARTS, TRIAL_COLS = (("a", 256), ("b", 128)), 512

TRIAL_TOKENS = (17, 130)
"""Backends have another product for few tokens than for many: one number of each, neither a multiple of four."""

TRIAL_EXPERTS = ((0, 2), (2, 0), (3, 2), (2, 3))
"""The experts of tokens of a trial, in turn, of `TRIAL_STACK`; one has no token."""

TRIAL_STACK = 4


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
        w_NK = torch.cat([exact_weight(weights, i) for i in range(len(weights.parts))])
        plain = x_MK[rows].double() @ w_NK.T
        if weights.scheme.input is None:
            return Truth(rows, plain, plain)
        if not weights.scheme.transforms:
            return Truth(rows, exact_input(x_MK.float(), weights, rows) @ w_NK.T, plain)
        parts = [_of_part(weights, x_MK.float(), rows, i) for i in range(len(weights.parts))]
        return Truth(rows, torch.cat(parts, dim=1), plain)

    def error(self, y_MN: torch.Tensor) -> float:
        """Relative Frobenius norm of the difference from the nearer truth; NaN where the product has one."""
        y_RN = y_MN[self.rows].double()
        found = ((y_RN - truth).norm() / truth.norm() for truth in (self.quantized, self.plain))
        return min(float(error.item()) for error in found)


def _of_part(weights: LinearWeights, x_MK: torch.Tensor, rows: torch.Tensor, part: int) -> torch.Tensor:
    """The product of a part that scales the input its own way: of it quantized, and the residual of it as it is."""
    transforms = weights.scheme.transforms
    if Transform.PRE_QUANT_SCALE in transforms and weights.pre_quant_scale is not None:
        x_MK = x_MK * weights.pre_quant_scale[part]
    y_RN = exact_input(x_MK, weights, rows) @ exact_weight(weights, part, transformed=False).T
    if Transform.LOW_RANK_RESIDUAL in transforms:
        a_rK, b_Nr = residual_of(weights, part)
        y_RN += x_MK[rows].double() @ a_rK.T @ b_Nr.T
    return y_RN


def trial(
    backend: Backend, scheme: LinearScheme, device: torch.device, tokens: Sequence[int] = TRIAL_TOKENS, seed: int = 0
) -> float:
    """Run a backend on a small layer of two parts, random operands, few tokens and many; its largest error, NaN where
    there is one. Raises whatever the backend raises."""
    generator = torch.Generator(device).manual_seed(seed)
    weights = random_weights(scheme, TRIAL_PARTS, TRIAL_COLS, generator)
    prepared, errors = backend.prepare(weights), []
    for num_tokens in tokens:
        x = random_input(num_tokens, TRIAL_COLS, generator)
        errors.append(Truth.of(weights, x).error(backend.apply(prepared, x)))
    return _largest(errors)


def trial_stack(
    backend: GroupedBackend,
    scheme: LinearScheme,
    device: torch.device,
    tokens: Sequence[int] = TRIAL_TOKENS,
    seed: int = 0,
) -> float:
    """As `trial`, for a grouped backend: the rows of each token for its experts, as the backend routes them."""
    generator = torch.Generator(device).manual_seed(seed)
    each = [random_weights(scheme, TRIAL_PARTS, TRIAL_COLS, generator) for _ in range(TRIAL_STACK)]
    prepared, errors = backend.prepare(_stacked(each)), []
    for num_tokens in tokens:
        x = random_input(num_tokens, TRIAL_COLS, generator)
        errors.append(_error_of_rows(backend, prepared, each, x))
    return _largest(errors)


def _largest(errors: Sequence[float]) -> float:
    """NaN where one is."""
    return next((error for error in errors if isnan(error)), max(errors))


def _error_of_rows(
    backend: GroupedBackend, prepared: GroupedPrepared, each: Sequence[LinearWeights], x: torch.Tensor
) -> float:
    """The error of the rows of every token for its experts."""
    num_tokens, stack, device = len(x), prepared.weights, x.device
    ids = torch.tensor([TRIAL_EXPERTS[at % len(TRIAL_EXPERTS)] for at in range(num_tokens)], device=device)
    routing = backend.route(ids, range(TRIAL_STACK), backend.alignment(ids.numel(), stack.shape))
    y_PN = backend.apply(prepared, x, routing)
    truths = [Truth.of(weights, x) for weights in each]
    token = torch.arange(num_tokens, device=device)[:, None].expand_as(ids)
    quantized, plain = (torch.stack(found)[ids, token].flatten(0, 1) for found in (
        [truth.quantized for truth in truths], [truth.plain for truth in truths],
    ))  # fmt: skip
    return Truth(torch.arange(ids.numel(), device=device), quantized, plain).error(y_PN[routing.position.flatten()])


def _stacked(each: Sequence[LinearWeights]) -> StackWeights:
    """Layers alike as a stack, in its own memory."""
    first = each[0]

    def stack(tensors: list[torch.Tensor | None]) -> torch.Tensor | None:
        found = [tensor.view(torch.uint8) for tensor in tensors if tensor is not None]
        return torch.stack(found).view(tensors[0].dtype) if tensors[0] is not None else None

    weight = stack([one.weight for one in each])
    if weight is None:
        raise AssertionError("every layer has a weight")
    return StackWeights(
        scheme=first.scheme, shape=(len(each), *first.shape), parts=first.parts, weight=weight,
        weight_scale=stack([one.weight_scale for one in each]),
        weight_global_scale=stack([one.weight_global_scale for one in each]),
        input_scale=stack([one.input_scale for one in each]),
        input_global_scale=stack([one.input_global_scale for one in each]),
    )  # fmt: skip
