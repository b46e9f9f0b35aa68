"""ERNIE 4.5 MoE: experts in a range of layers, shared ones beside them; one key decides about most biases.

The correction of the router is a row of its own, [1, E]. Layers for multi-token prediction are kept as stored.
"""

from collections.abc import Mapping
from typing import Any

from fp8load.archs.base import Arch, Flag, Only, Tower, Vector, constant, key
from fp8load.archs.decoder import LLAMA_NORMS, experts, gated_mlp, o_proj, qkv, replicated, root
from fp8load.archs.layer_kinds import both, has, opposite

USE_BIAS = Flag(key="use_bias", default=False)
COUNT, SIZE = key("moe_num_experts"), key("moe_intermediate_size")
PREDICTION = tuple(
    Tower(prefix=f"model.{name}", reason="layers for multi-token prediction, kept as stored")
    for name in ("mtp_block", "mtp_emb_norm", "mtp_hidden_norm", "mtp_linear_proj")
)


def is_sparse(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer has experts (transformers' Ernie4_5_MoeDecoderLayer); an end of -1 is the last layer."""
    first, last = config.get("moe_layer_start_index", 1), config.get("moe_layer_end_index", -1)
    interval = max(config.get("moe_layer_interval", 1), 1)
    return bool((layer + 1) % interval == 0 and first <= layer and (last == -1 or layer <= last))


ARCH = Arch(
    name="ernie4_5_moe",
    model_types=("ernie4_5_moe",),
    layer=(
        qkv(bias=USE_BIAS),
        o_proj(bias=USE_BIAS),
        *LLAMA_NORMS,
        Only(where=opposite(is_sparse), entries=gated_mlp(bias=USE_BIAS)),
        Only(
            where=is_sparse,
            entries=(
                replicated("mlp.gate", COUNT, free=True),
                Vector(name="mlp.moe_statics.e_score_correction_bias", times=constant(1), length=COUNT, free=True),
                experts(COUNT, SIZE),
            ),
        ),
        Only(
            where=both(is_sparse, has("moe_num_shared_experts")),
            entries=gated_mlp(bias=USE_BIAS, within="mlp.shared_experts.", size=SIZE * key("moe_num_shared_experts")),
        ),
    ),
    root=(*root(tied=True, head_bias=USE_BIAS), *PREDICTION),
    defaults={
        "num_key_value_heads": 4,
        "moe_num_experts": 64,
        "moe_intermediate_size": 1536,
        "moe_num_shared_experts": 2,
    },
)
