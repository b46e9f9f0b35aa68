"""ERNIE 4.5 0.3B, dense: llama with a tied head; one key decides about every bias."""

from fp8load.archs.base import Arch, Flag
from fp8load.archs.decoder import LLAMA_NORMS, gated_mlp, o_proj, qkv, root

USE_BIAS = Flag(key="use_bias", default=False)

ARCH = Arch(
    name="ernie4_5",
    model_types=("ernie4_5",),
    layer=(qkv(bias=USE_BIAS), o_proj(bias=USE_BIAS), *gated_mlp(bias=USE_BIAS), *LLAMA_NORMS),
    root=root(tied=True),
    defaults={"num_key_value_heads": 2, "head_dim": 128},
    nullable=("num_key_value_heads", "head_dim"),
)
