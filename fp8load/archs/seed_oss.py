"""Seed-OSS 36B: q, k and v have biases; those of o and of the MLP have keys of their own."""

from fp8load.archs.base import Arch, Flag
from fp8load.archs.decoder import LLAMA_NORMS, gated_mlp, o_proj, qkv, root

ATTENTION_BIAS = Flag(key="attention_bias", default=True)
OUT_BIAS = Flag(key="attention_out_bias", default=False)
MLP_BIAS = Flag(key="mlp_bias", default=False)

ARCH = Arch(
    name="seed_oss",
    model_types=("seed_oss",),
    layer=(qkv(bias=ATTENTION_BIAS), o_proj(bias=OUT_BIAS), *gated_mlp(bias=MLP_BIAS), *LLAMA_NORMS),
    root=root(tied=False),
    defaults={"num_key_value_heads": 8, "head_dim": 128},
    nullable=("num_key_value_heads", "head_dim"),
)
