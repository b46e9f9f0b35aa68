"""Hunyuan 0.5B to 7B, dense: norms on the heads of q and k under names of their own."""

from fp8load.archs.base import Arch, Flag
from fp8load.archs.decoder import LLAMA_NORMS, gated_mlp, o_proj, qk_norms, qkv, root

ATTENTION_BIAS = Flag(key="attention_bias", default=False)

ARCH = Arch(
    name="hunyuan_v1_dense",
    model_types=("hunyuan_v1_dense",),
    layer=(
        qkv(bias=ATTENTION_BIAS),
        o_proj(bias=ATTENTION_BIAS),
        *gated_mlp(),
        *qk_norms("self_attn.query_layernorm", "self_attn.key_layernorm"),
        *LLAMA_NORMS,
    ),
    root=root(tied=False),
)
