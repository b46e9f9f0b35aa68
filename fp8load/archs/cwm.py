"""Code World Model 32B (Meta): llama without biases in attention."""

from fp8load.archs.base import Arch, Flag
from fp8load.archs.decoder import LLAMA_NORMS, gated_mlp, o_proj, qkv, root

MLP_BIAS = Flag(key="mlp_bias", default=False)

ARCH = Arch(
    name="cwm",
    model_types=("cwm",),
    layer=(qkv(), o_proj(), *gated_mlp(bias=MLP_BIAS), *LLAMA_NORMS),
    root=root(tied=False),
    defaults={"num_key_value_heads": 8, "head_dim": 128},
)
