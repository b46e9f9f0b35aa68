"""Gemma 1 and CodeGemma: llama with a tied head and heads of 256."""

from fp8load.archs.base import Arch, Flag
from fp8load.archs.decoder import LLAMA_NORMS, gated_mlp, o_proj, qkv, root

ATTENTION_BIAS = Flag(key="attention_bias", default=False)

ARCH = Arch(
    name="gemma",
    model_types=("gemma",),
    layer=(qkv(bias=ATTENTION_BIAS), o_proj(bias=ATTENTION_BIAS), *gated_mlp(), *LLAMA_NORMS),
    root=root(tied=True),
    defaults={"num_key_value_heads": 16, "head_dim": 256},
)
