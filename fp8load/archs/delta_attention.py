"""Kimi Delta Attention, which Kimi Linear, Kimi-K3 and GLM-5.3 have in most layers, and how they say which ones.

Every head is on its own but for the ranks of the gates, so all is split by heads. A_log is whole on every rank: its
heads are no first axis in one family, and it is longer than there are heads in another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fp8load.archs.base import Dim, Entry, Length, Linear, Part, Plain, Vector, constant, key
from fp8load.archs.decoder import column, replicated, row
from fp8load.plan.shard import Shard

HEADS, HEAD = key("linear_num_heads"), key("linear_head_dim")
SIZE = HEADS * HEAD
SETTINGS = {
    "num_heads": "linear_num_heads",
    "head_dim": "linear_head_dim",
    "short_conv_kernel_size": "linear_conv_kernel_dim",
    "use_full_rank_gate": "use_full_rank_gate",
}
"""Publishers' keys within `linear_attn_config`, and transformers' beside it."""

SIZES = {"linear_num_heads": 32, "linear_head_dim": 128, "linear_conv_kernel_dim": 4}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of linear attention, and the layers with full attention where publishers count them from 1."""
    said = config.get("linear_attn_config")
    if not isinstance(said, Mapping):
        return {}
    found = {usual: said[name] for name, usual in SETTINGS.items() if name in said}
    full = said.get("full_attn_layers")
    if isinstance(full, list) and not isinstance(config.get("layer_types"), list):
        numbers = range(1, key("num_hidden_layers").of(config) + 1)
        found["layer_types"] = ["full_attention" if number in full else "linear_attention" for number in numbers]
    return found


def full_gate(within: str = "self_attn.") -> tuple[Entry, ...]:
    """The gate of the output as one projection."""
    return (column(f"{within}g_proj", SIZE, Dim.HIDDEN, unit=HEAD),)


def low_gate(within: str = "self_attn.") -> tuple[Entry, ...]:
    """The gate of the output through a low rank."""
    return (replicated(f"{within}g_a_proj", HEAD), column(f"{within}g_b_proj", SIZE, HEAD, unit=HEAD))


def delta_attention(gate: tuple[Entry, ...], decays: tuple[Length | int, ...]) -> tuple[Entry, ...]:
    """All of it; `gate` is that of the output, `decays` the shape of A_log."""
    within = "self_attn."
    parts = tuple(Part(slot=slot, module=f"{within}{slot}_proj", rows=SIZE, unit=HEAD) for slot in "qkv")
    conv = (SIZE, 1, key("linear_conv_kernel_dim"))
    return (
        Linear(target=f"{within}qkv_proj", parts=parts, cols=Dim.HIDDEN, shard=Shard.COLUMN),
        *(Plain(name=f"{within}{slot}_conv1d.weight", shape=conv, split=(SIZE,), free=True) for slot in "qkv"),
        column(f"{within}b_proj", HEADS, Dim.HIDDEN, unit=constant(1)),
        replicated(f"{within}f_a_proj", HEAD),
        column(f"{within}f_b_proj", SIZE, HEAD, unit=HEAD),
        *gate,
        Plain(name=f"{within}A_log", shape=decays, free=True),
        Plain(name=f"{within}dt_bias", shape=(SIZE,), split=(SIZE,), free=True),
        Vector(name=f"{within}o_norm.weight", length=HEAD, free=True),
        row(f"{within}o_proj", Dim.HIDDEN, SIZE, unit=HEAD),
    )
