"""A decoder of the llama kind over fused linear layers: what an engine does with what the library loads, in 100 lines.

Runs llama, mistral, qwen2, qwen3 and phi3. Weights come through `Weights`, so that the same code runs on numpy arrays
and on loaded modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from oracle.shard import sizes

Linear = Callable[[torch.Tensor], torch.Tensor]


class Weights(Protocol):
    """Where a decoder's weights come from."""

    def linear(self, module: str) -> Linear:
        """x [..., K] -> [..., N], bias included."""

    def tensor(self, name: str) -> torch.Tensor | None:
        """A norm or the embedding in float32; None where there is no such tensor."""


class ArrayWeights:
    """Weights from numpy arrays under fused names."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def linear(self, module: str) -> Linear:
        """x @ W.T + bias."""
        weight = self.arrays.get(f"{module}.weight", self.arrays["model.embed_tokens.weight"])
        bias = self.arrays.get(f"{module}.bias")
        return lambda x: F.linear(x, weight, bias)

    def tensor(self, name: str) -> torch.Tensor | None:
        """The array of that name."""
        return self.arrays.get(name)


def rms_norm(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    """x / rms(x) * weight over the last axis."""
    assert weight is not None
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rotary(x: torch.Tensor, theta: float) -> torch.Tensor:
    """Rotate [batch, heads, tokens, head_dim]; the two halves of a head are the pairs."""
    tokens, head_dim = x.shape[-2:]
    frequencies = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.arange(tokens, dtype=torch.float32)[:, None] * frequencies
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def rope_theta(config: Mapping[str, Any]) -> float:
    """The base of the rotary frequencies, under its new or its old key."""
    nested = config.get("rope_parameters") or {}
    theta = nested.get("rope_theta", config.get("rope_theta"))
    assert nested.get("rope_type", "default") == "default"
    return float(theta)


def attention(x: torch.Tensor, prefix: str, weights: Weights, config: Mapping[str, Any]) -> torch.Tensor:
    """Causal attention with grouped KV heads, over a fused qkv projection."""
    size = sizes(config)
    batch, tokens, _ = x.shape
    fused = weights.linear(f"{prefix}.qkv_proj")(x)
    kv_rows = size.num_kv_heads * size.head_dim
    split = fused.split([size.num_heads * size.head_dim, kv_rows, kv_rows], dim=-1)
    q, k, v = (part.view(batch, tokens, -1, size.head_dim).transpose(1, 2) for part in split)
    if weights.tensor(f"{prefix}.q_norm.weight") is not None:
        q = rms_norm(q, weights.tensor(f"{prefix}.q_norm.weight"), config["rms_norm_eps"])
        k = rms_norm(k, weights.tensor(f"{prefix}.k_norm.weight"), config["rms_norm_eps"])
    q, k = rotary(q, rope_theta(config)), rotary(k, rope_theta(config))
    groups = size.num_heads // size.num_kv_heads
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = q @ k.transpose(-1, -2) / size.head_dim**0.5
    future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    mixed = scores.masked_fill(future, float("-inf")).softmax(dim=-1) @ v
    return weights.linear(f"{prefix}.o_proj")(mixed.transpose(1, 2).reshape(batch, tokens, -1))


def mlp(x: torch.Tensor, prefix: str, weights: Weights) -> torch.Tensor:
    """down(silu(gate) * up)."""
    gate, up = weights.linear(f"{prefix}.gate_up_proj")(x).chunk(2, dim=-1)
    return weights.linear(f"{prefix}.down_proj")(F.silu(gate) * up)


@torch.no_grad()
def logits(input_ids: np.ndarray, weights: Weights, config: Mapping[str, Any]) -> np.ndarray:
    """[batch, tokens] -> [batch, tokens, vocabulary], float32."""
    eps = config["rms_norm_eps"]
    embedding = weights.tensor("model.embed_tokens.weight")
    assert embedding is not None
    x = embedding[torch.from_numpy(input_ids)]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        normed = rms_norm(x, weights.tensor(f"{prefix}.input_layernorm.weight"), eps)
        x = x + attention(normed, f"{prefix}.self_attn", weights, config)
        normed = rms_norm(x, weights.tensor(f"{prefix}.post_attention_layernorm.weight"), eps)
        x = x + mlp(normed, f"{prefix}.mlp", weights)
    x = rms_norm(x, weights.tensor("model.norm.weight"), eps)
    head: np.ndarray = weights.linear("lm_head")(x).numpy()
    return head


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """Frobenius norm of the difference over that of the expected value."""
    return float(np.linalg.norm(got.astype(np.float64) - expected) / np.linalg.norm(expected.astype(np.float64)))
