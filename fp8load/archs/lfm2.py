"""LFM2: short convolutions in most layers, attention in the others, alone or inside LFM2-VL.

Mixers are those of `archs/lfm2_moe.py`. The size of the MLP follows from the configured one.
"""

from collections.abc import Mapping
from typing import Any

from fp8load.archs.base import TIED, Arch, Only, Tower, key
from fp8load.archs.decoder import W1_W3_W2, gated_mlp, norms, root
from fp8load.archs.layer_kinds import opposite
from fp8load.archs.lfm2_moe import ATTENTION, CONVOLUTION, IS_ATTENTION

VISION = "the vision model, which fp8load keeps as stored"


def is_attention(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer has attention: listed with all layers, or by its number; without a list, every one has."""
    listed = config.get("full_attn_idxs")
    if isinstance(config.get("layer_types"), list) or not isinstance(listed, list):
        return IS_ATTENTION(config, layer) or "layer_types" not in config
    return layer in listed


def derived(config: Mapping[str, Any]) -> dict[str, Any]:
    """The MLP's size (transformers' Lfm2MLP); the publisher's names of keys come before transformers'."""
    size = key("block_ff_dim").of(config) or key("intermediate_size").of(config)
    if config.get("block_auto_adjust_ff_dim", True):
        factor, step = config.get("block_ffn_dim_multiplier"), max(key("block_multiple_of").of(config), 1)
        size = 2 * size // 3
        size = int(factor * size) if isinstance(factor, int | float) else size
        size = -(-size // step) * step
    return {"intermediate_size": size, TIED: config.get("tie_embedding", config.get(TIED))}


ARCH = Arch(
    name="lfm2",
    model_types=("lfm2", "lfm2_vl"),
    layer=(
        Only(where=opposite(is_attention), entries=CONVOLUTION),
        Only(where=is_attention, entries=ATTENTION),
        *gated_mlp(within="feed_forward.", names=W1_W3_W2, fused="w13"),
        *norms("operator_norm", "ffn_norm"),
    ),
    root=(
        *root(tied=True, norm=norms("model.embedding_norm")),
        *(Tower(prefix=f"model.{name}", reason=VISION) for name in ("vision_tower", "multi_modal_projector")),
    ),
    decoders=("model", "model.language_model"),
    text_config="text_config",
    derived=derived,
    defaults={
        "hidden_size": 2560,
        "intermediate_size": 12_288,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 65_536,
        "conv_L_cache": 3,
        "block_multiple_of": 256,
    },
)
