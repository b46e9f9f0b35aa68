"""Step3: a low-rank query and one head of keys and values, experts in a tensor for all (its modeling_step3.py).

q_proj, k_proj and v_proj read the same input and are fused, whole on every rank; wq makes the heads of the query.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fp8load.archs.base import Arch, Dim, Entry, Linear, Only, Part, Tower, Vector, key
from fp8load.archs.decoder import LLAMA_NORMS, column, experts, gated_mlp, o_proj, replicated, root
from fp8load.archs.layer_kinds import opposite
from fp8load.archs.published import Stacked
from fp8load.archs.step3p5 import COUNT, HEAD, OTHERS, is_sparse
from fp8load.archs.step3p5 import derived as listed
from fp8load.plan.shard import Shard

QUERY = key("share_q_dim")
TOWERS = ("vision_model", "vit_downsampler", "vit_downsampler2", "vit_large_projector")


def derived(config: Mapping[str, Any]) -> dict[str, Any]:
    """Which layers have experts: listed, or all but the first one. There is one head of keys and values."""
    sparse = listed(config)["sparse"]
    every = frozenset(str(number) for number in range(1, key("num_hidden_layers").of(config)))
    return {"sparse": every if sparse is None else sparse, "num_key_value_heads": 1}


ATTENTION: tuple[Entry, ...] = (
    Linear(
        target="self_attn.qkv_proj",
        parts=(
            Part(slot="q", module="self_attn.q_proj", rows=QUERY),
            Part(slot="k", module="self_attn.k_proj", rows=HEAD),
            Part(slot="v", module="self_attn.v_proj", rows=HEAD),
        ),
        cols=Dim.HIDDEN,
        shard=Shard.REPLICATED,
    ),
    Vector(name="self_attn.inter_norm.weight", length=QUERY),
    column("self_attn.wq", Dim.Q, QUERY, unit=HEAD),
    o_proj(),
)

ARCH = Arch(
    name="step3",
    model_types=("step3_vl", "step3_text"),
    layer=(
        *ATTENTION,
        Only(where=opposite(is_sparse), entries=gated_mlp()),
        Only(
            where=is_sparse,
            entries=(
                replicated("moe.gate", COUNT, free=True),
                experts(
                    COUNT,
                    key("moe_intermediate_size"),
                    within="moe",
                    published=Stacked(apart=True, suffix=".weight"),
                ),
                *gated_mlp(within="share_expert.", size=key("share_expert_dim")),
            ),
        ),
        *LLAMA_NORMS,
    ),
    root=(*root(tied=False), *(Tower(prefix=name, reason=OTHERS) for name in TOWERS)),
    text_config="text_config",
    derived=derived,
    defaults={
        "head_dim": 256,
        "share_q_dim": 2048,
        "n_routed_experts": 48,
        "moe_intermediate_size": 5120,
        "share_expert_dim": 5120,
    },
    aliases={"moe_num_experts": "n_routed_experts"},
)
