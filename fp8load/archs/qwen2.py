"""Qwen2 and Qwen2.5: q, k and v have biases, o has none."""

from fp8load.archs.base import ALWAYS, Arch
from fp8load.archs.decoder import LLAMA_NORMS, gated_mlp, o_proj, qkv, root

ARCH = Arch(
    name="qwen2",
    model_types=("qwen2",),
    layer=(qkv(bias=ALWAYS), o_proj(), *gated_mlp(), *LLAMA_NORMS),
    root=root(tied=False),
    defaults={"num_key_value_heads": 32},
    nullable=("num_key_value_heads",),
)
