"""Layers as operators of torch: what `torch.compile` sees of them, and what a gradient passes through.

A layer is found again by a number, so that a graph holds no weights: what is loaded later into the same layer is what a
compiled graph computes with. Layers that are gone are forgotten.
"""

from __future__ import annotations

from itertools import count
from typing import Any, Protocol, cast
from weakref import WeakValueDictionary

import torch

_numbers = count()


class Runs(Protocol):
    """A layer, to those who call it by its number."""

    def run(self, x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        """What `forward` promises."""
        ...

    def pull_back(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient of x, float32, from that of the result [..., N]: through the dequantized weight."""
        ...


_layers: WeakValueDictionary[int, Any] = WeakValueDictionary()


def enroll(layer: object) -> int:
    """A number by which the operators find a layer while it lives."""
    number = next(_numbers)
    _layers[number] = layer
    return number


def _find(number: int) -> Runs:
    """The layer of a number. Raises `RuntimeError` where it is gone."""
    layer = _layers.get(number)
    if layer is None:
        raise RuntimeError(
            f"layer {number} of this graph is gone: a graph keeps no layer alive; compile the model that holds it again"
        )
    return cast(Runs, layer)


@torch.library.custom_op("fp8load::linear", mutates_args=())
def linear(x: torch.Tensor, layer: int, num_rows: int, float32: bool) -> torch.Tensor:  # a schema
    """x [..., K] -> [..., N] by a `ScaledLinear`, in x's dtype, or float32 where its backend gives that."""
    del num_rows, float32  # for who does not run it
    return _find(layer).run(x)


@linear.register_fake
def _linear(x: torch.Tensor, layer: int, num_rows: int, float32: bool) -> torch.Tensor:
    del layer
    return x.new_empty(*x.shape[:-1], num_rows, dtype=torch.float32 if float32 else x.dtype)


@torch.library.custom_op("fp8load::linear_backward", mutates_args=())
def linear_backward(gradient: torch.Tensor, layer: int, num_cols: int) -> torch.Tensor:
    """The gradient of a result [..., N] -> that of x [..., K], in the same dtype."""
    del num_cols  # for who does not run it
    return _find(layer).pull_back(gradient).to(gradient.dtype)


@linear_backward.register_fake
def _linear_backward(gradient: torch.Tensor, layer: int, num_cols: int) -> torch.Tensor:
    del layer
    return gradient.new_empty(*gradient.shape[:-1], num_cols)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    del output
    ctx.layer, ctx.dtype, ctx.num_cols = inputs[1], inputs[0].dtype, inputs[0].shape[-1]


def _gradient(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
    return linear_backward(gradient, ctx.layer, ctx.num_cols).to(ctx.dtype), None, None, None


linear.register_autograd(_gradient, setup_context=_remember)


@torch.library.custom_op("fp8load::experts", mutates_args=())
def experts(x: torch.Tensor, topk_weights: torch.Tensor, topk_ids: torch.Tensor, layer: int) -> torch.Tensor:
    """x [..., H] -> [..., H], float32, by a `ScaledExperts`."""
    return _find(layer).run(x, topk_weights, topk_ids)


@experts.register_fake
def _experts(x: torch.Tensor, topk_weights: torch.Tensor, topk_ids: torch.Tensor, layer: int) -> torch.Tensor:
    del topk_weights, topk_ids, layer
    return x.new_empty(x.shape, dtype=torch.float32)
