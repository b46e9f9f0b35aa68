"""Beam: a gate for each row of the attention's output and its bias for each head, four norms a layer, experts.

Names are transformers'; where no layer is listed as dense, the first three are.
"""

from collections.abc import Mapping
from typing import Any

from fp8load.archs.base import Arch, Dim, Flag, Only, Plain, Vector, key
from fp8load.archs.decoder import (
    LLAMA_NORMS,
    column,
    experts,
    gated_mlp,
    norms,
    o_proj,
    qk_norms,
    qkv,
    replicated,
    root,
)
from fp8load.archs.layer_kinds import opposite

ATTENTION_BIAS = Flag(key="attention_bias", default=False)
COUNT = key("num_experts")
DENSE_LAYERS = 3


def is_dense(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer has an ordinary MLP."""
    listed = config.get("mlp_layer_types")
    if isinstance(listed, list) and layer < len(listed):
        return bool(listed[layer] != "sparse")
    return layer < DENSE_LAYERS


ARCH = Arch(
    name="beam",
    model_types=("beam",),
    layer=(
        qkv(bias=ATTENTION_BIAS),
        o_proj(bias=ATTENTION_BIAS),
        column("self_attn.gate_proj", Dim.Q, Dim.HIDDEN, unit=key("head_dim")),
        Plain(name="self_attn.gate_bias", shape=(Dim.HEADS,), split=(Dim.HEADS,)),
        *qk_norms(),
        Only(where=is_dense, entries=gated_mlp()),
        Only(
            where=opposite(is_dense),
            entries=(
                replicated("mlp.gate", COUNT),
                Vector(name="mlp.gate.e_score_correction_bias", length=COUNT, free=True),
                experts(COUNT, key("moe_intermediate_size")),
            ),
        ),
        *LLAMA_NORMS,
        *norms("pre_feedforward_layernorm", "post_feedforward_layernorm"),
    ),
    root=root(tied=False),
    defaults={"num_key_value_heads": 8, "head_dim": 128, "num_experts": 256, "moe_intermediate_size": 2560},
    aliases={"num_local_experts": "num_experts"},
)
