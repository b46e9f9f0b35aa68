"""Granite 3 and 4 dense: llama, with multipliers that are numbers of the config and no tensors."""

from fp8load.archs.base import Arch, Flag
from fp8load.archs.decoder import LLAMA_NORMS, gated_mlp, o_proj, qkv, root

ATTENTION_BIAS = Flag(key="attention_bias", default=False)
MLP_BIAS = Flag(key="mlp_bias", default=False)

ARCH = Arch(
    name="granite",
    model_types=("granite",),
    layer=(qkv(bias=ATTENTION_BIAS), o_proj(bias=ATTENTION_BIAS), *gated_mlp(bias=MLP_BIAS), *LLAMA_NORMS),
    root=root(tied=False),
)
