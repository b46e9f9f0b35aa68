"""Helium 1 2B (Kyutai): llama, whose o projection never has a bias."""

from fp8load.archs.base import Arch, Flag
from fp8load.archs.decoder import LLAMA_NORMS, gated_mlp, o_proj, qkv, root

ATTENTION_BIAS = Flag(key="attention_bias", default=False)
MLP_BIAS = Flag(key="mlp_bias", default=False)

ARCH = Arch(
    name="helium",
    model_types=("helium",),
    layer=(qkv(bias=ATTENTION_BIAS), o_proj(), *gated_mlp(bias=MLP_BIAS), *LLAMA_NORMS),
    root=root(tied=False),
    defaults={"num_key_value_heads": 20, "head_dim": 128},
)
