"""Hunyuan 4: DeepSeek-V3.2's attention with a gate and sinks, hyper-connections, experts in one tensor for all.

Names are those of Hy4-preview's index. The layer for multi-token prediction has a name of its own; it always has an
indexer, and no hyper-connections. transformers 5.23 saves other names: `archs/hy_v4_saved.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

from fp8load.archs.base import Arch, Dim, Entry, Only, Plain, key
from fp8load.archs.decoder import LLAMA_NORMS, column, experts, gated_mlp, norms, replicated, root
from fp8load.archs.deepseek_v3 import ATTENTION, CORRECTION, COUNT, EXPERT_SIZE, HEADS, is_dense, is_sparse
from fp8load.archs.deepseek_v4 import STREAMS, WIDTH
from fp8load.archs.deepseek_v32 import INDEXER
from fp8load.archs.predictor import Predictor
from fp8load.archs.published import Stacked

VALUE = key("v_head_dim")


def derived(config: Mapping[str, Any]) -> dict[str, Any]:
    """A limit that is none at 0 and below (transformers' HYV4Config)."""
    limit = config.get("swiglu_limit")
    return {"swiglu_limit": inf} if isinstance(limit, int | float) and limit <= 0 else {}


def chooses(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer has an indexer of its own: listed, or the first two and every fourth after them."""
    listed = config.get("indexer_types")
    if isinstance(listed, list) and layer < len(listed):
        return bool(listed[layer] == "full")
    return layer == 0 or layer % 4 == 1


GATED_ATTENTION: tuple[Entry | Only, ...] = (
    *ATTENTION,
    column("self_attn.linear_gate", HEADS * VALUE, Dim.HIDDEN, unit=VALUE),
    Plain(name="self_attn.learnable_sink_param", shape=(HEADS,), split=(HEADS,), free=True),
)


def connection(within: str, rows: int) -> tuple[Plain, ...]:
    """A hyper-connection, whose parameters are named from `within` on; `rows` for each stream and a scale for each."""
    return (
        Plain(name=f"{within}fn", shape=(STREAMS * rows, WIDTH), free=True),
        Plain(name=f"{within}base", shape=(STREAMS * rows,), free=True),
        Plain(name=f"{within}scale", shape=(rows,), free=True),
    )


def mixture(gate: str) -> tuple[Entry, ...]:
    """Experts and shared ones, whose gate has the name `gate`."""
    return (
        replicated("mlp.gate", COUNT, free=True),
        CORRECTION,
        experts(COUNT, EXPERT_SIZE, published=Stacked(), activation="limited-silu", limit=("swiglu_limit", 10.0)),
        *gated_mlp(
            within="mlp.shared_experts.",
            size=EXPERT_SIZE * key("n_shared_experts"),
            names=(gate, "up_proj", "down_proj"),
        ),
    )


def layers(connections: tuple[str, str], gate: str) -> tuple[Entry | Only, ...]:
    """A layer with these hyper-connections, and this name of the gate of an MLP."""
    return (
        *GATED_ATTENTION,
        Only(where=chooses, entries=INDEXER),
        *(entry for name in connections for entry in connection(f"{name}.hc_", 2)),
        Only(where=is_dense, entries=gated_mlp(names=(gate, "up_proj", "down_proj"))),
        Only(where=is_sparse, entries=mixture(gate)),
        *LLAMA_NORMS,
    )


ARCH = Arch(
    name="hy_v4",
    model_types=("hy_v4",),
    layer=layers(("hc_attn_layer.hc_pre", "hc_mlp_layer.hc_pre"), "gate_proj"),
    root=(*root(tied=False), *connection("model.hc_head.hc_head_", 1)),
    predictor=Predictor(
        within="model.mtp_layers",
        layers="model.mtp_layers",
        layer=(
            *GATED_ATTENTION,
            *INDEXER,
            *mixture("gate_proj"),
            *LLAMA_NORMS,
            *norms("enorm", "hnorm", "final_layernorm"),
            replicated("eh_proj", Dim.HIDDEN, key("hidden_size") * 2),
        ),
        count=key("num_nextn_predict_layers"),
    ),
    derived=derived,
    defaults={
        "first_k_dense_replace": 1,
        "n_shared_experts": 1,
        "hc_mult": 4,
        "index_n_heads": 16,
        "index_head_dim": 128,
        "num_nextn_predict_layers": 1,
    },
)
