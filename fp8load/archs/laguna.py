"""Laguna: layers with as many heads as is listed for each, a gate on attention's output, the first layers dense.

The gate has a row for each head, or for each of their channels. The router's correction is named with the experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fp8load.archs.base import Arch, Dim, Entry, Flag, Only, Size, Vector, Where, constant, key
from fp8load.archs.decoder import LLAMA_NORMS, column, experts, gated_mlp, of_heads, qk_norms, replicated, root
from fp8load.archs.layer_kinds import both, opposite
from fp8load.archs.qwen3_moe import is_dense as is_stepped_over

BIAS = Flag(key="attention_bias", default=False)
HEAD, COUNT = key("head_dim"), key("num_experts")
MAX_KINDS = 4
"""How many numbers of heads a model may have: those that are published have two."""


def heads_of(config: Mapping[str, Any], layer: int) -> int:
    """The heads of a layer."""
    listed = config.get("num_attention_heads_per_layer")
    if isinstance(listed, list) and layer < len(listed) and isinstance(listed[layer], int):
        return int(listed[layer])
    return key("num_attention_heads").of(config)


def derived(config: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of heads that some layer has."""
    return {"numbers_of_heads": sorted({heads_of(config, n) for n in range(key("num_hidden_layers").of(config))})}


def has_heads(kind: int) -> Where:
    """Layers with the number of heads that is this one of all."""

    def where(config: Mapping[str, Any], layer: int) -> bool:
        numbers = config["numbers_of_heads"]
        return kind < len(numbers) and bool(heads_of(config, layer) == numbers[kind])

    return where


def is_gated_by_head(config: Mapping[str, Any], layer: int) -> bool:
    """Whether the gate has one number for a head; true says so, too."""
    del layer
    return config.get("gating", True) in (True, "per-head")


def is_dense(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer has an ordinary MLP: listed (transformers), by the publisher's keys, or the first one."""
    listed = config.get("mlp_layer_types")
    if isinstance(listed, list) and layer < len(listed):
        return bool(listed[layer] == "dense")
    return is_stepped_over(config, layer) if "mlp_only_layers" in config else layer == 0


def attention(heads: Size) -> tuple[Entry, ...]:
    """The projections of a layer with this many heads, its gate aside."""
    return of_heads(heads, HEAD, BIAS)


def attentions() -> tuple[Only, ...]:
    """Attention for each number of heads."""
    found: list[Only] = []
    for kind in range(MAX_KINDS):
        here, heads = has_heads(kind), key(f"numbers_of_heads[{kind}]")
        by_head = column("self_attn.g_proj", heads, Dim.HIDDEN, unit=constant(1))
        by_channel = column("self_attn.g_proj", heads * HEAD, Dim.HIDDEN, unit=HEAD)
        found += [
            Only(where=here, entries=attention(heads)),
            Only(where=both(here, is_gated_by_head), entries=(by_head,)),
            Only(where=both(here, opposite(is_gated_by_head)), entries=(by_channel,)),
        ]
    return tuple(found)


ARCH = Arch(
    name="laguna",
    model_types=("laguna",),
    layer=(
        *attentions(),
        *qk_norms(),
        *LLAMA_NORMS,
        Only(where=is_dense, entries=gated_mlp()),
        Only(
            where=opposite(is_dense),
            entries=(
                replicated("mlp.gate", COUNT, free=True),
                Vector(name="mlp.experts.e_score_correction_bias", length=COUNT, free=True),
                experts(COUNT, key("moe_intermediate_size")),
                *gated_mlp(within="mlp.shared_expert.", size=key("shared_expert_intermediate_size")),
            ),
        ),
    ),
    root=root(tied=False),
    derived=derived,
    defaults={
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_experts": 256,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
    },
    aliases={"num_local_experts": "num_experts"},
)
