"""GLM-5.3: Kimi Delta Attention in three of four layers, glm_moe_dsa's attention in the others, hyper-connections.

The indexer compresses groups of keys into one. A layer for multi-token prediction follows the last one; it has full
attention, an indexer and experts, and no hyper-connections.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fp8load.archs.base import Arch, Entry, Only, Plain, Tower, key
from fp8load.archs.decoder import LLAMA_NORMS, experts, gated_mlp, replicated, root
from fp8load.archs.deepseek_v3 import ATTENTION, CORRECTION, COUNT, EXPERT_SIZE, MTP, is_dense, is_sparse
from fp8load.archs.deepseek_v4 import mixing
from fp8load.archs.deepseek_v32 import INDEX_SIZE, INDEXER
from fp8load.archs.delta_attention import HEADS, LOW_GATES, SIZES, delta_attention, settings
from fp8load.archs.glm_moe_dsa import chooses
from fp8load.archs.layer_kinds import both, layer_type, opposite

VISION = "the vision model, which fp8load keeps as stored"
IS_LINEAR = layer_type("linear_attention")
IS_FULL = opposite(IS_LINEAR)


def derived(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `linear_attn_config` says, and the kinds of layers where they are not listed (transformers' config)."""
    numbers = range(key("num_hidden_layers").of(config))
    usual = ["indexed_attention" if number % 4 == 3 else "linear_attention" for number in numbers]
    listed = config.get("layer_types")
    return {**settings(config), "layer_types": listed if isinstance(listed, list) else usual}


def is_of_the_model(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer is none for multi-token prediction."""
    return layer < key("num_hidden_layers").of(config)


DECAYS = Plain(name="self_attn.A_log", shape=(HEADS,), split=(HEADS,), free=True)
POOLS: tuple[Entry, ...] = (
    Plain(name="self_attn.indexer.index_kpool_compress_ape", shape=(key("index_kpool"), INDEX_SIZE), free=True),
    Plain(name="self_attn.indexer.index_kpool_compress_gate", shape=(INDEX_SIZE, key("hidden_size")), free=True),
)

ARCH = Arch(
    name="glm5_next",
    model_types=("glm5_next",),
    layer=(
        Only(where=IS_FULL, entries=ATTENTION),
        Only(where=both(IS_FULL, chooses), entries=(*INDEXER, *POOLS)),
        Only(where=IS_LINEAR, entries=delta_attention(LOW_GATES, DECAYS)),
        Only(where=is_dense, entries=gated_mlp()),
        Only(
            where=is_sparse,
            entries=(
                replicated("mlp.gate", COUNT, free=True),
                CORRECTION,
                experts(COUNT, EXPERT_SIZE, activation="limited-silu", limit=("swiglu_limit", 10.0)),
                *gated_mlp(within="mlp.shared_experts.", size=EXPERT_SIZE * key("n_shared_experts")),
            ),
        ),
        Only(where=is_of_the_model, entries=(*mixing("attn"), *mixing("ffn"))),
        *LLAMA_NORMS,
    ),
    root=(*root(tied=False), Tower(prefix="model.visual", reason=VISION), Tower(prefix="visual", reason=VISION)),
    mtp=MTP,
    num_mtp=key("num_nextn_predict_layers"),
    decoders=("model.language_model", "model"),
    text_config="text_config",
    cached=IS_FULL,
    derived=derived,
    defaults={
        **SIZES,
        "linear_num_heads": 64,
        "first_k_dense_replace": 3,
        "n_shared_experts": 1,
        "hc_mult": 4,
        "index_n_heads": 32,
        "index_head_dim": 128,
        "index_kpool": 16,
    },
)
