"""GLM-4-0414 and GLM-Z1, dense: as glm, with norms after attention and after the MLP too."""

from fp8load.archs.base import Arch, Flag
from fp8load.archs.decoder import LLAMA_NORMS, gated_mlp, norms, o_proj, qkv, root

ATTENTION_BIAS = Flag(key="attention_bias", default=True)

ARCH = Arch(
    name="glm4",
    model_types=("glm4",),
    layer=(
        qkv(bias=ATTENTION_BIAS),
        o_proj(),
        *gated_mlp(),
        *LLAMA_NORMS,
        *norms("post_self_attn_layernorm", "post_mlp_layernorm"),
    ),
    root=root(tied=False),
    defaults={"num_key_value_heads": 2, "head_dim": 128},
)
