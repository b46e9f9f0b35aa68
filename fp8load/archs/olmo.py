"""OLMo 1: its norms have no weights, so there is none to store."""

from fp8load.archs.base import Arch, Flag
from fp8load.archs.decoder import gated_mlp, o_proj, qkv, root

ATTENTION_BIAS = Flag(key="attention_bias", default=False)

ARCH = Arch(
    name="olmo",
    model_types=("olmo",),
    layer=(qkv(bias=ATTENTION_BIAS), o_proj(bias=ATTENTION_BIAS), *gated_mlp()),
    root=root(tied=False, norm=()),
)
