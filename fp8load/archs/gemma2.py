"""Gemma 2: four norms a layer, a tied head."""

from fp8load.archs.base import Arch, Flag
from fp8load.archs.decoder import LLAMA_NORMS, gated_mlp, norms, o_proj, qkv, root

ATTENTION_BIAS = Flag(key="attention_bias", default=False)

ARCH = Arch(
    name="gemma2",
    model_types=("gemma2",),
    layer=(
        qkv(bias=ATTENTION_BIAS),
        o_proj(bias=ATTENTION_BIAS),
        *gated_mlp(),
        *LLAMA_NORMS,
        *norms("pre_feedforward_layernorm", "post_feedforward_layernorm"),
    ),
    root=root(tied=True),
    defaults={"num_key_value_heads": 4, "head_dim": 256},
)
