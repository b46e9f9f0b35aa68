"""Mistral Small 3.1 and later, and Ministral 3: a mistral or ministral3 inside the multimodal model."""

from fp8load.archs.base import Arch, Tower
from fp8load.archs.decoder import LLAMA_NORMS, gated_mlp, o_proj, qkv, root

VISION = "the vision model, which fp8load keeps as stored"

ARCH = Arch(
    name="mistral3",
    model_types=("mistral3",),
    layer=(qkv(), o_proj(), *gated_mlp(), *LLAMA_NORMS),
    root=(
        *root(tied=False),
        Tower(prefix="vision_tower", reason=VISION),
        Tower(prefix="multi_modal_projector", reason=VISION),
    ),
    prefixes=("language_model.",),
    text_config="text_config",
    defaults={"num_key_value_heads": 8},
)
