"""fp8load's layers as transformers' models call them."""

from __future__ import annotations

from typing import Any

import torch

from fp8load.runtime.experts import ScaledExperts


class RoutedExperts(torch.nn.Module):
    """Experts behind the interface of transformers' blocks: the block's own router says who goes where.

    layer  the experts, w13 and w2
    """

    def __init__(self, layer: ScaledExperts) -> None:
        super().__init__()
        self.layer = layer
        self.num_experts = len(layer.experts)

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """hidden_states [T, H], top_k_index and top_k_weights [T, k] -> [T, H] in the dtype of hidden_states."""
        total: torch.Tensor = self.layer(hidden_states, top_k_weights, top_k_index)
        return total.to(hidden_states.dtype)


def in_dtype(layer: torch.nn.Module, given: tuple[Any, ...], y: torch.Tensor) -> torch.Tensor:
    """Forward hook: the result in the input's dtype. The reference backend gives float32, which the next module of a
    model in 16 bits does not take."""
    del layer
    x: torch.Tensor = given[0]
    return y.to(x.dtype)
