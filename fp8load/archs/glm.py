"""GLM-4-9B in transformers' layout and GLM-Edge: gate_up_proj is fused on disk; q, k and v have biases, o has none."""

from fp8load.archs.base import Arch, Flag
from fp8load.archs.decoder import LLAMA_NORMS, gated_mlp, o_proj, qkv, root

ATTENTION_BIAS = Flag(key="attention_bias", default=True)

ARCH = Arch(
    name="glm",
    model_types=("glm",),
    layer=(qkv(bias=ATTENTION_BIAS), o_proj(), *gated_mlp(), *LLAMA_NORMS),
    root=root(tied=False),
    defaults={"num_key_value_heads": 2, "head_dim": 128},
    nullable=("num_key_value_heads", "head_dim"),
)
