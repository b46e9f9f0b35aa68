"""Qwen3, dense: norms on the heads of q and k, no biases unless the config asks."""

from fp8load.archs.base import Arch, Flag
from fp8load.archs.decoder import LLAMA_NORMS, gated_mlp, o_proj, qk_norms, qkv, root

ATTENTION_BIAS = Flag(key="attention_bias", default=False)

ARCH = Arch(
    name="qwen3",
    model_types=("qwen3",),
    layer=(qkv(bias=ATTENTION_BIAS), o_proj(bias=ATTENTION_BIAS), *gated_mlp(), *qk_norms(), *LLAMA_NORMS),
    root=root(tied=False),
    defaults={"num_key_value_heads": 32, "head_dim": 128},
    nullable=("num_key_value_heads",),
)
