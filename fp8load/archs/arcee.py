"""AFM 4.5B (Arcee): llama with an MLP without a gate."""

from fp8load.archs.base import Arch, Flag
from fp8load.archs.decoder import LLAMA_NORMS, o_proj, plain_mlp, qkv, root

ATTENTION_BIAS = Flag(key="attention_bias", default=False)
MLP_BIAS = Flag(key="mlp_bias", default=False)

ARCH = Arch(
    name="arcee",
    model_types=("arcee",),
    layer=(qkv(bias=ATTENTION_BIAS), o_proj(bias=ATTENTION_BIAS), *plain_mlp(bias=MLP_BIAS), *LLAMA_NORMS),
    root=root(tied=False),
)
