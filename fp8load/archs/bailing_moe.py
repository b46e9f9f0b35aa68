"""Ling and Ring: q, k and v are one module on disk, with the rows of q first, then k, then v; the first layers dense.

The second generation has norms on heads and a bias of its router. Names and keys are those of the publisher's
modeling_bailing_moe.py and modeling_bailing_moe_v2.py, and of vLLM's models/bailing_moe.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fp8load.archs.base import Arch, Dim, Flag, Head, Linear, Only, Part, Table, Vector, key
from fp8load.archs.decoder import LLAMA_NORMS, experts, gated_mlp, norms, o_proj, replicated
from fp8load.archs.layer_kinds import dense_first, opposite
from fp8load.plan.shard import Shard

QKV_BIAS, BIAS = Flag(key="use_qkv_bias", default=False), Flag(key="use_bias", default=False)
QK_NORM = Flag(key="use_qk_norm", default=False)
EXPERT_BIAS = Flag(key="moe_router_enable_expert_bias", default=False)
COUNT, SIZE = key("num_experts"), key("moe_intermediate_size")
IS_DENSE = dense_first("first_k_dense_replace")


def derived(config: Mapping[str, Any]) -> dict[str, Any]:
    """q, k and v have a bias where all layers have one, too."""
    return {"use_qkv_bias": bool(config.get("use_qkv_bias") or config.get("use_bias"))}


ARCH = Arch(
    name="bailing_moe",
    model_types=("bailing_moe",),
    attention="attention",
    layer=(
        Linear(
            target="attention.query_key_value",
            parts=(
                Part(slot="q", module="attention.q_proj", rows=Dim.Q),
                Part(slot="k", module="attention.k_proj", rows=Dim.KV),
                Part(slot="v", module="attention.v_proj", rows=Dim.KV),
            ),
            cols=Dim.HIDDEN,
            shard=Shard.COLUMN,
            bias=QKV_BIAS,
        ),
        o_proj(bias=BIAS, module="attention.dense"),
        *(
            Vector(name=f"attention.{name}_layernorm.weight", length=Dim.HEAD, when=QK_NORM)
            for name in ("query", "key")
        ),
        *LLAMA_NORMS,
        Only(where=IS_DENSE, entries=gated_mlp(bias=BIAS)),
        Only(
            where=opposite(IS_DENSE),
            entries=(
                replicated("mlp.gate", COUNT, free=True),
                Vector(name="mlp.gate.expert_bias", length=COUNT, when=EXPERT_BIAS, free=True),
                experts(COUNT, SIZE, bias=BIAS),
                *gated_mlp(bias=BIAS, within="mlp.shared_experts.", size=SIZE * key("num_shared_experts")),
            ),
        ),
    ),
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
    derived=derived,
)
