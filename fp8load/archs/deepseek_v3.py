"""DeepSeek-V3, R1, V3.1 and Kimi-K2: multi-head latent attention, the first layers dense, a shared expert, MTP.

q_a_proj and kv_a_proj_with_mqa read the same input and are fused, whole on every rank; without a q_lora_rank the query
has one projection. Layers for multi-token prediction follow the last one under the same prefix; most checkpoints repeat
the embedding and the head there, which the publisher's README_WEIGHTS.md says are the model's own.
"""

from collections.abc import Mapping
from typing import Any

from fp8load.archs.base import ALWAYS, Arch, Dim, Entry, Flag, Head, Linear, Only, Part, Vector, key
from fp8load.archs.decoder import (
    LLAMA_NORMS,
    ROTARY,
    column,
    experts,
    gated_mlp,
    norms,
    replicated,
    root,
    row,
)
from fp8load.archs.layer_kinds import has, lacks
from fp8load.plan.shard import Shard

ATTENTION_BIAS = Flag(key="attention_bias", default=False)
HEADS = key("num_attention_heads")
QK_HEAD = key("qk_nope_head_dim") + key("qk_rope_head_dim")
KV_HEAD = key("qk_nope_head_dim") + key("v_head_dim")
Q_RANK, KV_RANK = key("q_lora_rank"), key("kv_lora_rank")
COUNT = key("n_routed_experts")
EXPERT_SIZE = key("moe_intermediate_size")


def is_sparse(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer has experts: listed (transformers), or by the publishers' numbers."""
    listed = config.get("mlp_layer_types")
    if isinstance(listed, list) and layer < len(listed):
        return bool(listed[layer] == "sparse")
    step = config.get("moe_layer_freq", 1)
    first = config.get("first_k_dense_replace", 0)
    return COUNT.of(config) > 0 and layer >= first and (not isinstance(step, int) or layer % max(step, 1) == 0)


def is_dense(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer has an ordinary MLP."""
    return not is_sparse(config, layer)


def has_bias_correction(config: Mapping[str, Any], layer: int) -> bool:
    """Whether the router has a correction for each expert."""
    del layer
    return bool(config.get("topk_method", "noaux_tc") == "noaux_tc")


def latent_attention(*, named: str = "", within: str = "self_attn.", out: str = "o_proj") -> tuple[Entry | Only, ...]:
    """Multi-head latent attention under `within`; `out` is its output projection, `named` what its keys begin with."""
    heads, v_head = key(f"{named}num_attention_heads"), key(f"{named}v_head_dim")
    nope, rope = key(f"{named}qk_nope_head_dim"), key(f"{named}qk_rope_head_dim")
    q_rank, kv_rank = key(f"{named}q_lora_rank"), key(f"{named}kv_lora_rank")
    return (
        Only(
            where=has(f"{named}q_lora_rank"),
            entries=(
                Linear(
                    target=f"{within}fused_qkv_a_proj",
                    parts=(
                        Part(slot="q_a", module=f"{within}q_a_proj", rows=q_rank),
                        Part(slot="kv_a", module=f"{within}kv_a_proj_with_mqa", rows=kv_rank + rope),
                    ),
                    cols=Dim.HIDDEN,
                    shard=Shard.REPLICATED,
                    bias=ATTENTION_BIAS,
                ),
                Vector(name=f"{within}q_a_layernorm.weight", length=q_rank),
                column(f"{within}q_b_proj", heads * (nope + rope), q_rank, unit=nope + rope),
            ),
        ),
        Only(
            where=lacks(f"{named}q_lora_rank"),
            entries=(
                column(f"{within}q_proj", heads * (nope + rope), Dim.HIDDEN, unit=nope + rope),
                replicated(f"{within}kv_a_proj_with_mqa", kv_rank + rope, bias=ATTENTION_BIAS),
            ),
        ),
        Vector(name=f"{within}kv_a_layernorm.weight", length=kv_rank),
        column(f"{within}kv_b_proj", heads * (nope + v_head), kv_rank, unit=nope + v_head),
        row(within + out, Dim.HIDDEN, heads * v_head, unit=v_head, bias=ATTENTION_BIAS),
    )


ATTENTION = latent_attention()


def mixture(*router: Entry | Only) -> tuple[Entry | Only, ...]:
    """Dense layers first, then a router, with what `router` adds to it, routed experts and shared ones."""
    return (
        Only(where=is_dense, entries=gated_mlp()),
        Only(
            where=is_sparse,
            entries=(
                replicated("mlp.gate", COUNT),
                *router,
                experts(COUNT, EXPERT_SIZE),
                *gated_mlp(within="mlp.shared_experts.", size=EXPERT_SIZE * key("n_shared_experts")),
            ),
        ),
    )


CORRECTION = Vector(name="mlp.gate.e_score_correction_bias", length=COUNT, free=True)
MIXTURE = mixture(Only(where=has_bias_correction, entries=(CORRECTION,)))

MTP: tuple[Entry, ...] = (
    *norms("enorm", "hnorm", "shared_head.norm"),
    replicated("eh_proj", Dim.HIDDEN, key("hidden_size") * 2),
    Head(module="embed_tokens", tied=ALWAYS),
    Head(module="shared_head.head", tied=ALWAYS),
)
"""What a layer for multi-token prediction has beside a layer's own; the last two may be left out."""

ARCH = Arch(
    name="deepseek_v3",
    model_types=("deepseek_v3", "kimi_k2"),
    layer=(*ATTENTION, *MIXTURE, *LLAMA_NORMS, ROTARY),
    root=root(tied=False),
    mtp=MTP,
    num_mtp=key("num_nextn_predict_layers"),
    defaults={"first_k_dense_replace": 3},
)
