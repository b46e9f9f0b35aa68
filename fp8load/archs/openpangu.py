"""openPangu: Embedded, dense as llama with biases in attention, and Ultra MoE, made as DeepSeek-V3 is.

Norms may stand behind attention and MLP too. The publisher has names of its own for the numbers (its configuration
files); engines and re-exports use DeepSeek's. Biases and the router's correction are as vLLM reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fp8load.archs.base import Arch, Flag, Only, Vector, key
from fp8load.archs.decoder import LLAMA_NORMS, ROTARY, norms, o_proj, qkv, root
from fp8load.archs.deepseek_v3 import ATTENTION, COUNT, MTP, mixture
from fp8load.archs.layer_kinds import has, lacks

BIAS, QKV_BIAS = Flag(key="has_bias", default=False), Flag(key="has_qkv_bias", default=False)
LATENT = "kv_lora_rank"


def derived(config: Mapping[str, Any]) -> dict[str, Any]:
    """Biases, which either of two keys asks for; the dense model has them unless it says otherwise."""
    said = config.get("attention_bias") or config.get("bias", config.get("model_type") == "PanguEmbedded")
    return {"has_bias": bool(said), "has_qkv_bias": bool(config.get("qkv_bias", said))}


CORRECTION = Vector(
    name="mlp.e_score_correction_bias",
    length=COUNT,
    when=Flag(key="router_enable_expert_bias", default=False),
    free=True,
)

ARCH = Arch(
    name="openpangu",
    model_types=("PanguEmbedded", "pangu_ultra_moe"),
    layer=(
        Only(where=lacks(LATENT), entries=(qkv(QKV_BIAS), o_proj(BIAS), ROTARY)),
        Only(where=has(LATENT), entries=ATTENTION),
        *mixture(CORRECTION),
        *LLAMA_NORMS,
        Only(where=has("sandwich_norm"), entries=norms("pre_mlp_layernorm", "post_mlp_layernorm")),
    ),
    root=root(tied=False),
    mtp=MTP,
    num_mtp=key("num_nextn_predict_layers"),
    derived=derived,
    defaults={"first_k_dense_replace": 3},
    aliases={
        "attention_kv_lora_dim": "kv_lora_rank",
        "attention_q_lora_dim": "q_lora_rank",
        "attention_qk_dim": "qk_nope_head_dim",
        "attention_qk_rope_dim": "qk_rope_head_dim",
        "attention_v_dim": "v_head_dim",
        "num_routed_experts": "n_routed_experts",
        "num_shared_experts": "n_shared_experts",
        "num_dense_layers": "first_k_dense_replace",
        "num_mtp_layers": "num_nextn_predict_layers",
    },
)
