"""Ling and Ring 2.5 to 3.0: latent attention in one layer of a group, linear attention in the others.

Linear attention is Kimi Delta Attention in 3.0, which has a convolution, and where latent attention has a gate; before,
it was lightning attention, with q, k and v in one module. Names are those that converters and engines list for what is
published; `archs/bailing_hybrid_saved.py` has those of transformers. A layer for multi-token prediction has latent
attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fp8load.archs.base import (
    Arch,
    Dim,
    Entry,
    Flag,
    Head,
    Linear,
    Only,
    Part,
    Plain,
    Table,
    Vector,
    Where,
    constant,
    key,
)
from fp8load.archs.decoder import LLAMA_NORMS, column, experts, gated_mlp, norms, replicated, row
from fp8load.archs.deepseek_v3 import COUNT, EXPERT_SIZE, is_dense, is_sparse, latent_attention
from fp8load.archs.delta_attention import HEAD, HEADS, SIZE, delta_attention, full_gate
from fp8load.archs.layer_kinds import both, has, lacks, layer_type, opposite
from fp8load.plan.shard import Shard

WITHIN = "attention."
VALUE = key("v_head_dim")
IS_LINEAR = layer_type("linear_attention")
IS_FULL, HAS_DELTA = opposite(IS_LINEAR), has("short_conv_kernel_size")
EXPERT_BIAS = Flag(key="moe_router_enable_expert_bias", default=True)
LIMITED = "expert_swiglu_limit_list"


def derived(config: Mapping[str, Any]) -> dict[str, Any]:
    """Heads of linear attention, which are those of all, and the kinds of layers: listed, or by groups, the last part
    of one being full.
    """
    layers, group = key("num_hidden_layers").of(config), max(key("layer_group_size").of(config), 1)
    kinds = ["full_attention" if (n + 1) % group == 0 or n >= layers // group * group else "linear_attention"
             for n in range(layers)]  # fmt: skip
    listed = config.get("layer_types")
    return {
        "layer_types": listed if isinstance(listed, list) else kinds,
        "linear_num_heads": config.get("linear_num_heads") or config.get("num_attention_heads"),
        "linear_head_dim": config.get("linear_head_dim") or config.get("head_dim"),
        "linear_conv_kernel_dim": config.get("linear_conv_kernel_dim") or config.get("short_conv_kernel_size"),
    }


def is_gated_by(kind: str) -> Where:
    """Layers whose latent attention has a gate with a number for each head ("head_wise") or for each channel."""

    def where(config: Mapping[str, Any], layer: int) -> bool:
        said = config.get("gated_attention_proj_granularity_type", "head_wise")
        return HAS_DELTA(config, layer) and IS_FULL(config, layer) and bool(said == kind)

    return where


LIGHTNING: tuple[Entry, ...] = (
    Linear(
        target=f"{WITHIN}query_key_value",
        parts=tuple(Part(slot=s, module=f"{WITHIN}query_key_value", rows=SIZE, unit=HEAD) for s in "qkv"),
        cols=Dim.HIDDEN,
        shard=Shard.COLUMN,
        bias=Flag(key="use_qkv_bias", default=False),
    ),
    column(f"{WITHIN}g_proj", SIZE, Dim.HIDDEN, unit=HEAD),
    Vector(name=f"{WITHIN}g_norm.weight", length=SIZE, free=True),
    *(
        Vector(name=f"{WITHIN}{name}_layernorm.weight", length=HEAD, when=Flag(key="use_qk_norm", default=True))
        for name in ("query", "key")
    ),
    row(f"{WITHIN}dense", Dim.HIDDEN, SIZE, unit=HEAD, bias=Flag(key="use_bias", default=False)),
)


def delta(out: str) -> tuple[Entry, ...]:
    """Kimi Delta Attention whose output projection has this name."""
    gates = (*full_gate("f", within=WITHIN), *full_gate("g", within=WITHIN))
    decays = Plain(name=f"{WITHIN}A_log", shape=(HEADS,), split=(HEADS,), free=True)
    return delta_attention(gates, decays, within=WITHIN, out=out)


def layers(out: str) -> tuple[Entry | Only, ...]:
    """A layer, with this name of the output projection of Kimi Delta Attention."""
    experts_of = {limited: experts(COUNT, EXPERT_SIZE, activation=limited) for limited in ("silu", "swiglu-step")}
    return (
        Only(where=IS_FULL, entries=latent_attention(within=WITHIN, out="dense")),
        Only(
            where=is_gated_by("head_wise"),
            entries=(column(f"{WITHIN}g_proj", key("num_attention_heads"), Dim.HIDDEN, unit=constant(1)),),
        ),
        Only(
            where=is_gated_by("element_wise"),
            entries=(column(f"{WITHIN}g_proj", key("num_attention_heads") * VALUE, Dim.HIDDEN, unit=VALUE),),
        ),
        Only(where=both(IS_LINEAR, HAS_DELTA), entries=delta(out)),
        Only(where=both(IS_LINEAR, opposite(HAS_DELTA)), entries=LIGHTNING),
        *LLAMA_NORMS,
        Only(where=is_dense, entries=gated_mlp()),
        Only(
            where=is_sparse,
            entries=(
                replicated("mlp.gate", COUNT, free=True),
                Vector(name="mlp.gate.expert_bias", length=COUNT, when=EXPERT_BIAS, free=True),
                *gated_mlp(within="mlp.shared_experts.", size=EXPERT_SIZE * key("n_shared_experts")),
            ),
        ),
        Only(where=both(is_sparse, lacks(LIMITED)), entries=(experts_of["silu"],)),
        # late layers hold the products of experts below limits, which the runtime refuses to leave out
        Only(where=both(is_sparse, has(LIMITED)), entries=(experts_of["swiglu-step"],)),
    )


ARCH = Arch(
    name="bailing_hybrid",
    model_types=("bailing_hybrid",),
    attention="attention",
    layer=layers("o_proj"),
    root=(
        Table(name="model.word_embeddings.weight"),
        *norms("model.norm"),
        Head(module="lm_head", tied=Flag(key="tie_word_embeddings", default=False)),
    ),
    mtp=(
        *norms("enorm", "hnorm", "final_layernorm"),
        replicated("eh_proj", Dim.HIDDEN, key("hidden_size") * 2),
    ),
    num_mtp=key("num_nextn_predict_layers"),
    cached=IS_FULL,
    derived=derived,
    defaults={"first_k_dense_replace": 2, "n_shared_experts": 1, "layer_group_size": 6},
    aliases={
        "num_experts": "n_routed_experts",
        "num_local_experts": "n_routed_experts",
        "num_shared_experts": "n_shared_experts",
    },
)
