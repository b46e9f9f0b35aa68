"""Flint: attention sinks, the first two layers dense unless others are listed, then experts and an ungated shared one.

The sinks are `softmax_offset` in the release and in what transformers saves.
"""

from collections.abc import Mapping
from typing import Any

from fp8load.archs.base import Arch, Dim, Flag, Only, Plain, key
from fp8load.archs.decoder import LLAMA_NORMS, experts, gated_mlp, o_proj, qk_norms, qkv, replicated, root
from fp8load.archs.qwen3_moe import is_dense, is_sparse

ATTENTION_BIAS = Flag(key="attention_bias", default=False)
COUNT = key("num_experts")


def derived(config: Mapping[str, Any]) -> dict[str, Any]:
    """The dense layers, where none are listed."""
    return {"mlp_only_layers": config.get("mlp_only_layers", [0, 1])}


ARCH = Arch(
    name="flint",
    model_types=("flint",),
    layer=(
        qkv(bias=ATTENTION_BIAS),
        o_proj(bias=ATTENTION_BIAS),
        Plain(name="self_attn.softmax_offset", shape=(Dim.HEADS,), split=(Dim.HEADS,)),
        *qk_norms(),
        Only(where=is_dense, entries=gated_mlp()),
        Only(
            where=is_sparse,
            entries=(
                replicated("mlp.gate", COUNT),
                experts(COUNT, key("moe_intermediate_size")),
                *gated_mlp(within="mlp.shared_expert.", size=key("shared_expert_intermediate_size")),
            ),
        ),
        *LLAMA_NORMS,
    ),
    root=root(tied=False),
    derived=derived,
    defaults={
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 256,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 1024,
    },
    aliases={"num_local_experts": "num_experts"},
)
