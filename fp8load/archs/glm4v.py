"""GLM-4.1V and GLM-4.6V Flash: glm4 with biases in attention, inside the multimodal model."""

from fp8load.archs.base import ALWAYS, Arch, Tower
from fp8load.archs.decoder import LLAMA_NORMS, gated_mlp, norms, o_proj, qkv, root

VISION = "the vision model, which fp8load keeps as stored"

ARCH = Arch(
    name="glm4v",
    model_types=("glm4v", "glm46v"),
    layer=(
        qkv(bias=ALWAYS),
        o_proj(),
        *gated_mlp(),
        *LLAMA_NORMS,
        *norms("post_self_attn_layernorm", "post_mlp_layernorm"),
    ),
    root=(*root(tied=False), Tower(prefix="model.visual", reason=VISION)),
    decoders=("model.language_model", "model"),
    text_config="text_config",
    defaults={"num_key_value_heads": 2},
)
