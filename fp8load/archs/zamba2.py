"""Zamba 2: a Mamba 2 in every layer, and in some an attention with an MLP before it, whose weights these layers share.

Blocks of attention and MLP take turns, `num_mem_blocks` of them, and are stored with the first layer that has them.
Each use of a block adds a product of two small matrices to its input projections, its adapter; they are numbered by the
layers that have attention. Mamba mixers are whole on every rank (`archs/state_space.py`). Names are transformers'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fp8load.archs.base import TIED, Arch, Dim, Entry, Flag, Only, Vector, Where, key
from fp8load.archs.decoder import column, gated_mlp, norms, o_proj, qkv, replicated, root
from fp8load.archs.layer_kinds import both, has, opposite
from fp8load.archs.state_space import mamba2

BIAS = Flag(key="add_bias_linear", default=False)
TIE = Flag(key=TIED, default=True)
ATTENTION, MLP = "shared_transformer.self_attn.", "shared_transformer.feed_forward."
TWICE, RANK = key("hidden_size") * 2, key("adapter_rank")
USUAL = (*range(6, 43, 6), 47, 51)
"""The layers with attention of a config that does not list its layers (transformers' Zamba2Config)."""
MAX_USES = 32
"""Of blocks with attention; Zamba2-7B has 13."""


def derived(config: Mapping[str, Any]) -> dict[str, Any]:
    """Attention reads two states of the hidden size, so that its heads are twice as large."""
    heads = key("num_attention_heads").of(config)
    return {
        "head_dim": TWICE.of(config) // heads if heads else 0,
        "intermediate_size": key("intermediate_size").of(config) or (key("hidden_size") * 4).of(config),
    }


def hybrids(config: Mapping[str, Any]) -> Sequence[int]:
    """The layers that have attention."""
    listed = config.get("layers_block_type")
    return [layer for layer, kind in enumerate(listed) if kind == "hybrid"] if isinstance(listed, list) else USUAL


def is_hybrid(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer has attention."""
    return layer in hybrids(config)


def has_block(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer has a block stored: the first of those that share one; without a tied head none do (transformers
    ties all weights that are the same, or none)."""
    found = hybrids(config)
    return layer in (found[: key("num_mem_blocks").of(config)] if TIE.of(config) else found)


def uses(number: int) -> Where:
    """Layers with the block that this use of a block, by its number, is of."""

    def where(config: Mapping[str, Any], layer: int) -> bool:
        found, count = hybrids(config), max(key("num_mem_blocks").of(config), 1)
        return number < len(found) and number % count == found.index(layer) % count

    return where


def mamba(within: str) -> tuple[Entry, ...]:
    """A Mamba 2 and the norm before it, named under `within`."""
    return (
        *norms(f"{within}input_layernorm"),
        *mamba2(
            f"{within}mamba.",
            heads=key("n_mamba_heads"),
            inner=key("mamba_expand") * key("hidden_size"),
            states=key("mamba_ngroups") * key("mamba_d_state"),
            kernel=key("mamba_d_conv"),
            bias=(BIAS, BIAS),
        ),
    )


def mlp_adapter(number: int) -> tuple[Entry, ...]:
    """The adapter of the MLP's input projection."""
    name = f"gate_up_proj_adapter_list.{number}."
    gate_up, _ = gated_mlp(within=MLP + name, names=("1", "1", ""), fused="1", cols=RANK)
    return (replicated(f"{MLP}{name}0", RANK), gate_up)


def attention_adapter(number: int) -> tuple[Entry, ...]:
    """The adapters of q, k and v."""
    names = [f"{ATTENTION}linear_{part}_adapter_list.{number}." for part in "qkv"]
    return tuple(
        entry for name in names for entry in (replicated(f"{name}0", RANK, TWICE), column(f"{name}1", Dim.Q, RANK))
    )


GATE_UP, DOWN = gated_mlp(BIAS, within=MLP, names=("gate_up_proj", "gate_up_proj", "down_proj"))

BLOCK: tuple[Entry | Only, ...] = (
    replace(qkv(within=ATTENTION), cols=TWICE),
    o_proj(module=f"{ATTENTION}o_proj"),
    GATE_UP,
    DOWN,
    Vector(name="shared_transformer.input_layernorm.weight", length=TWICE),
    *norms("shared_transformer.pre_ff_layernorm"),
    *(Only(where=uses(number), entries=mlp_adapter(number)) for number in range(MAX_USES)),
    *(
        Only(where=both(uses(number), has("use_shared_attention_adapter")), entries=attention_adapter(number))
        for number in range(MAX_USES)
    ),
)

ARCH = Arch(
    name="zamba2",
    model_types=("zamba2",),
    layer=(
        Only(where=opposite(is_hybrid), entries=mamba("")),
        Only(where=is_hybrid, entries=(*mamba("mamba_decoder."), replicated("linear", Dim.HIDDEN))),
        Only(where=has_block, entries=BLOCK),
    ),
    root=root(tied=True, norm=norms("model.final_layernorm")),
    attention=ATTENTION.rstrip("."),
    derived=derived,
    defaults={
        "hidden_size": 2560,
        "num_hidden_layers": 54,
        "num_attention_heads": 32,
        "vocab_size": 32_000,
        "mamba_d_state": 64,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "mamba_ngroups": 1,
        "n_mamba_heads": 8,
        "num_mem_blocks": 1,
        "adapter_rank": 128,
    },
)
