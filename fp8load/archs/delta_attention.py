"""Kimi Delta Attention, which Kimi Linear, Kimi-K3 and GLM-5.3 have in most layers.

Every head is on its own, but for the low ranks of the gates: all is split by heads, these ranks are whole on every one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fp8load.archs.base import Dim, Entry, Linear, Part, Plain, Vector, constant, key
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

A_LOG = "self_attn.A_log"
SIZES = {"linear_num_heads": 32, "linear_head_dim": 128, "linear_conv_kernel_dim": 4}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of linear attention, where a publisher says them."""
    said = config.get("linear_attn_config")
    return {usual: said[name] for name, usual in SETTINGS.items() if name in said} if isinstance(said, Mapping) else {}


def full_gate(within: str = "self_attn.") -> tuple[Entry, ...]:
    """The gate of the output as one projection."""
    return (column(f"{within}g_proj", SIZE, Dim.HIDDEN, unit=HEAD),)


def low_gate(within: str = "self_attn.") -> tuple[Entry, ...]:
    """The gate of the output through a low rank."""
    return (replicated(f"{within}g_a_proj", HEAD), column(f"{within}g_b_proj", SIZE, HEAD, unit=HEAD))


def delta_attention(gate: tuple[Entry, ...], decays: Plain) -> tuple[Entry, ...]:
    """All of it; `gate` is that of the output, `decays` is A_log."""
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
        decays,
        Plain(name=f"{within}dt_bias", shape=(SIZE,), split=(SIZE,), free=True),
        Vector(name=f"{within}o_norm.weight", length=HEAD, free=True),
        row(f"{within}o_proj", Dim.HIDDEN, SIZE, unit=HEAD),
    )
