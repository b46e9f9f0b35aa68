"""Step 3.5 and 3.7 Flash: heads gated one by one, more of them in sliding layers; experts in a tensor for all.

`moe.gate_proj.weight`, `moe.up_proj.weight` and `moe.down_proj.weight` hold all experts each. Layers for multi-token
prediction follow the last one, and may repeat the head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fp8load.archs.base import ALWAYS, Arch, Dim, Entry, Head, Only, Size, Tower, Vector, constant, key
from fp8load.archs.decoder import (
    LLAMA_NORMS,
    column,
    experts,
    gated_mlp,
    norms,
    of_heads,
    qk_norms,
    replicated,
    root,
)
from fp8load.archs.layer_kinds import layer_type, opposite
from fp8load.archs.published import Stacked

HEAD, COUNT = key("head_dim"), key("n_routed_experts")
OTHERS = "the vision model, which fp8load keeps as stored"
IS_SLIDING = layer_type("sliding_attention")


def derived(config: Mapping[str, Any]) -> dict[str, Any]:
    """Heads of sliding layers, which the publisher gives among their other settings, and where experts are."""
    other = config.get("attention_other_setting")
    said = other.get("num_attention_heads") if isinstance(other, Mapping) else None
    sliding = config.get("num_sliding_attention_heads") or said or config.get("num_attention_heads")
    listed = config.get("moe_layers_enum")
    numbers = listed.split(",") if isinstance(listed, str) else listed if isinstance(listed, list) else None
    sparse = None if numbers is None else frozenset(str(number).strip() for number in numbers)
    return {"num_sliding_attention_heads": sliding, "sparse": sparse}


def is_sparse(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer has experts: listed, or all but the first three; no layer behind the last one has."""
    kinds, sparse = config.get("mlp_layer_types"), config.get("sparse")
    if layer >= key("num_hidden_layers").of(config):
        return False
    if isinstance(kinds, list) and layer < len(kinds):
        return bool(kinds[layer] == "sparse")
    return layer >= 3 if sparse is None else str(layer) in sparse


def attention(heads: Size) -> tuple[Entry, ...]:
    """The projections of a layer with this many heads; g_proj has a row for each."""
    return (*of_heads(heads, HEAD), column("self_attn.g_proj", heads, Dim.HIDDEN, unit=constant(1)))


MIXTURE: tuple[Entry, ...] = (
    replicated("moe.gate", COUNT, free=True),
    Vector(name="moe.router_bias", length=COUNT, free=True),
    experts(
        COUNT,
        key("moe_intermediate_size"),
        within="moe",
        published=Stacked(apart=True, suffix=".weight"),
    ),
    *gated_mlp(within="share_expert.", size=key("share_expert_dim")),
)

ARCH = Arch(
    name="step3p5",
    model_types=("step3p5", "step3p7"),
    layer=(
        Only(where=IS_SLIDING, entries=attention(key("num_sliding_attention_heads"))),
        Only(where=opposite(IS_SLIDING), entries=attention(key("num_attention_heads"))),
        *qk_norms(),
        *LLAMA_NORMS,
        Only(where=opposite(is_sparse), entries=gated_mlp()),
        Only(where=is_sparse, entries=MIXTURE),
    ),
    root=(
        *root(tied=False),
        *(Tower(prefix=name, reason=OTHERS) for name in ("vision_model", "vit_large_projector")),
    ),
    mtp=(
        *norms("enorm", "hnorm", "transformer.shared_head.norm"),
        replicated("eh_proj", Dim.HIDDEN, key("hidden_size") * 2),
        Head(module="transformer.shared_head.output", tied=ALWAYS),
    ),
    num_mtp=key("num_nextn_predict_layers"),
    text_config="text_config",
    derived=derived,
    defaults={
        "num_key_value_heads": 8,
        "head_dim": 128,
        "n_routed_experts": 288,
        "moe_intermediate_size": 1280,
        "share_expert_dim": 1280,
    },
    aliases={
        "num_attention_groups": "num_key_value_heads",
        "moe_num_experts": "n_routed_experts",
        "num_local_experts": "n_routed_experts",
        "share_expert_dims": "share_expert_dim",
        "num_mtp_layers": "num_nextn_predict_layers",
    },
)
