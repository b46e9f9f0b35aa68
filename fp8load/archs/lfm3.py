"""LFM3, alone and inside LFM3-VL: short convolutions in half of the layers, sliding or full attention in the others.

A gate for each head, "gate_proj" in the release and in what transformers saves, is whole on every rank, as convolutions
are.
"""

from collections.abc import Mapping
from typing import Any

from fp8load.archs.base import Arch, Flag, Only, Tower, key
from fp8load.archs.decoder import W1_W3_W2, gated_mlp, norms, o_proj, qk_norms, qkv, replicated, root
from fp8load.archs.layer_kinds import both, has, opposite
from fp8load.archs.lfm2_moe import CONVOLUTION

ATTENTION_BIAS = Flag(key="attention_bias", default=False)
VISION = "the vision model, which fp8load keeps as stored"


def convolves(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer has a convolution: listed, or the first and every odd one."""
    listed = config.get("layer_types")
    if isinstance(listed, list) and layer < len(listed):
        return bool(listed[layer] == "conv")
    return layer == 0 or layer % 2 == 1


ARCH = Arch(
    name="lfm3",
    model_types=("lfm3", "lfm3_vl"),
    layer=(
        Only(where=convolves, entries=CONVOLUTION),
        Only(
            where=opposite(convolves),
            entries=(qkv(bias=ATTENTION_BIAS), o_proj(bias=ATTENTION_BIAS), *qk_norms()),
        ),
        Only(
            where=both(opposite(convolves), has("use_attention_gate")),
            entries=(replicated("self_attn.gate_proj", key("num_attention_heads")),),
        ),
        *gated_mlp(within="feed_forward.", names=W1_W3_W2, fused="w13"),
        *norms("operator_norm", "ffn_norm"),
        Only(where=has("use_sandwich_norm"), entries=norms("post_operator_norm", "post_ffn_norm")),
    ),
    root=(
        *root(tied=True, norm=norms("model.embedding_norm")),
        *(Tower(prefix=f"model.{name}", reason=VISION) for name in ("vision_tower", "multi_modal_projector")),
    ),
    decoders=("model", "model.language_model"),
    text_config="text_config",
    defaults={
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "conv_L_cache": 7,
        "use_attention_gate": True,
        "use_sandwich_norm": True,
    },
)
