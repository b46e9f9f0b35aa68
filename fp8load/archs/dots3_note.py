"""dots3-note: latent attention of two sizes, full with an indexer and sliding without, a gate for each head, experts.

transformers says the sizes of sliding attention for each layer, the release under keys that begin with "swa_" in a
configuration without parts. The layer for multi-token prediction follows the last one: it slides, and has an ordinary
MLP; its embedding, "model.mtp.embed_tokens", may stand beside the layers.
"""

from collections.abc import Mapping
from typing import Any

from fp8load.archs.base import ALWAYS, Arch, Entry, Head, Only, Tower, Vector, key
from fp8load.archs.decoder import LLAMA_NORMS, experts, gated_mlp, norms, replicated, root
from fp8load.archs.deepseek_v3 import CORRECTION, COUNT, EXPERT_SIZE, is_sparse, latent_attention
from fp8load.archs.deepseek_v32 import INDEXER
from fp8load.archs.layer_kinds import both, opposite

OTHERS = "the vision or audio model, which fp8load keeps as stored"
SLIDING = {
    "num_attention_heads": 64,
    "q_lora_rank": 1024,
    "kv_lora_rank": 1024,
    "head_dim": 256,
    "qk_nope_head_dim": 192,
    "v_head_dim": 128,
}
"""What transformers takes for sliding attention where a config leaves it out."""


def derived(config: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of sliding attention under the release's keys."""
    listed = config.get("per_layer_config")
    layers = listed.values() if isinstance(listed, Mapping) else ()
    said: Mapping[str, Any] = next((one for one in layers if isinstance(one, Mapping)), {})
    found = {f"swa_{name}": config.get(f"swa_{name}", said.get(name, usual)) for name, usual in SLIDING.items()}
    rest = (key("swa_head_dim") + key("swa_qk_nope_head_dim") * -1).of(found)
    return {**found, "swa_qk_rope_head_dim": config.get("swa_qk_rope_head_dim", said.get("qk_rope_head_dim", rest))}


def predicts(config: Mapping[str, Any], layer: int) -> bool:
    """Whether this is a layer for multi-token prediction."""
    return layer >= key("num_hidden_layers").of(config)


def slides(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer has sliding attention: listed, or all but the first and every fourth."""
    listed = config.get("layer_types")
    if predicts(config, layer):
        return True
    if isinstance(listed, list) and layer < len(listed):
        return bool(listed[layer] == "sliding_attention")
    return bool(config.get("use_sliding_window", True)) and layer > 0 and layer % 4 != 1


def has_indexer(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer chooses the tokens that it looks at: the release lists such layers as full ones."""
    listed = config.get("layer_types")
    said = config.get("use_dsa", None if "per_layer_config" in config else True)
    indexed = isinstance(listed, list) and layer < len(listed) and listed[layer] == "indexed_attention"
    return not slides(config, layer) and (indexed if said is None else bool(said))


def attention(named: str = "") -> tuple[Entry | Only, ...]:
    """Latent attention with a norm over the rotated part of k, and a gate for each head, whole on every rank."""
    return (
        *latent_attention(named=named),
        Vector(name="self_attn.k_rope_only_layernorm.weight", length=key(f"{named}qk_rope_head_dim")),
        replicated("self_attn.g_proj", key(f"{named}num_attention_heads")),
    )


MIXES = both(opposite(predicts), is_sparse)

ARCH = Arch(
    name="dots3_note",
    model_types=("dots3_note", "dots3_note_text"),
    layer=(
        Only(where=slides, entries=attention("swa_")),
        Only(where=opposite(slides), entries=attention()),
        Only(where=has_indexer, entries=INDEXER),
        Only(where=opposite(MIXES), entries=gated_mlp()),
        Only(
            where=MIXES,
            entries=(
                replicated("mlp.gate", COUNT),
                CORRECTION,
                experts(COUNT, EXPERT_SIZE),
                *gated_mlp(
                    within="mlp.shared_experts.",
                    size=key("shared_experts_intermediate_size") * key("n_shared_experts"),
                ),
            ),
        ),
        *LLAMA_NORMS,
    ),
    root=(
        *root(tied=False),
        Head(module="model.mtp.embed_tokens", tied=ALWAYS),
        *(Tower(prefix=name, reason=OTHERS) for name in ("vision_encoder", "audio_encoder")),
    ),
    mtp=(
        *norms("enorm", "hnorm", "shared_head.norm"),
        replicated("eh_proj", key("hidden_size"), key("hidden_size") * 2),
    ),
    num_mtp=key("num_nextn_predict_layers"),
    text_config="text_config",
    derived=derived,
    defaults={
        "num_attention_heads": 128,
        "q_lora_rank": 1024,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "moe_intermediate_size": 1536,
        "shared_experts_intermediate_size": 1536,
        "first_k_dense_replace": 1,
        "index_n_heads": 64,
        "index_head_dim": 128,
        "num_nextn_predict_layers": 1,
    },
    aliases={
        "moe_shared_expert_intermediate_size": "shared_experts_intermediate_size",
        "num_local_experts": "n_routed_experts",
    },
)
