"""Ministral 3's language model by itself: mistral, with heads of 128 unless said otherwise."""

from fp8load.archs.base import Arch
from fp8load.archs.decoder import LLAMA_NORMS, gated_mlp, o_proj, qkv, root

ARCH = Arch(
    name="ministral3",
    model_types=("ministral3",),
    layer=(qkv(), o_proj(), *gated_mlp(), *LLAMA_NORMS),
    root=root(tied=False),
    defaults={"num_key_value_heads": 8, "head_dim": 128},
)
