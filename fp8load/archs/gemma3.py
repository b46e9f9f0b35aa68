"""Gemma 3: four norms a layer, norms on the heads of q and k, a tied head; alone or inside the multimodal model."""

from fp8load.archs.base import Arch, Flag, Tower
from fp8load.archs.decoder import gated_mlp, norms, o_proj, qk_norms, qkv, root

ATTENTION_BIAS = Flag(key="attention_bias", default=False)
VISION = "the vision model, which fp8load keeps as stored"

ARCH = Arch(
    name="gemma3",
    model_types=("gemma3_text", "gemma3"),
    layer=(
        qkv(bias=ATTENTION_BIAS),
        o_proj(bias=ATTENTION_BIAS),
        *gated_mlp(),
        *qk_norms(),
        *norms(
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ),
    ),
    root=(
        *root(tied=True),
        Tower(prefix="vision_tower", reason=VISION),
        Tower(prefix="multi_modal_projector", reason=VISION),
    ),
    prefixes=("", "language_model."),
    text_config="text_config",
    # Gemma3TextConfig's own: google/gemma-3-4b-it and its quantized copies leave these out
    defaults={"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262_208},
)
