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

SIZES = {"linear_num_heads": 32, "linear_head_dim": 128, "linear_conv_kernel_dim": 4}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of linear attention, where a publisher says them."""
    said = config.get("linear_attn_config")
    return {usual: said[name] for name, usual in SETTINGS.items() if name in said} if isinstance(said, Mapping) else {}


def full_gate(letter: str, *, within: str = "self_attn.") -> tuple[Entry, ...]:
    """A gate as one projection: "f" of what is forgotten, "g" of the output."""
    return (column(f"{within}{letter}_proj", SIZE, Dim.HIDDEN, unit=HEAD),)


def low_gate(letter: str, *, within: str = "self_attn.") -> tuple[Entry, ...]:
    """A gate through a low rank."""
    return (
        replicated(f"{within}{letter}_a_proj", HEAD),
        column(f"{within}{letter}_b_proj", SIZE, HEAD, unit=HEAD),
    )


LOW_GATES = (*low_gate("f"), *low_gate("g"))


def delta_attention(
    gates: tuple[Entry, ...], decays: Plain, *, within: str = "self_attn.", out: str = "o_proj"
) -> tuple[Entry, ...]:
    """All of it, named under `within`. `decays` is A_log, `out` the output projection."""
    parts = tuple(Part(slot=slot, module=f"{within}{slot}_proj", rows=SIZE, unit=HEAD) for slot in "qkv")
    conv = (SIZE, 1, key("linear_conv_kernel_dim"))
    return (
        Linear(target=f"{within}qkv_proj", parts=parts, cols=Dim.HIDDEN, shard=Shard.COLUMN),
        *(Plain(name=f"{within}{slot}_conv1d.weight", shape=conv, split=(SIZE,), free=True) for slot in "qkv"),
        column(f"{within}b_proj", HEADS, Dim.HIDDEN, unit=constant(1)),
        *gates,
        decays,
        Plain(name=f"{within}dt_bias", shape=(SIZE,), split=(SIZE,), free=True),
        Vector(name=f"{within}o_norm.weight", length=HEAD, free=True),
        row(within + out, Dim.HIDDEN, SIZE, unit=HEAD),
    )
