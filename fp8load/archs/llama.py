"""Llama 2, 3 and the many that follow its layout."""

from fp8load.archs.base import Arch, Flag
from fp8load.archs.decoder import LLAMA_NORMS, ROTARY, gated_mlp, o_proj, qkv, root

ATTENTION_BIAS = Flag(key="attention_bias", default=False)
MLP_BIAS = Flag(key="mlp_bias", default=False)

ARCH = Arch(
    name="llama",
    model_types=("llama",),
    layer=(qkv(bias=ATTENTION_BIAS), o_proj(bias=ATTENTION_BIAS), *gated_mlp(bias=MLP_BIAS), *LLAMA_NORMS, ROTARY),
    root=root(tied=False),
)
