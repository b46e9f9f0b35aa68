"""EXAONE 4: norms after attention and MLP instead of before, and on the heads of q and k; no biases."""

from fp8load.archs.base import Arch
from fp8load.archs.decoder import gated_mlp, norms, o_proj, qk_norms, qkv, root

ARCH = Arch(
    name="exaone4",
    model_types=("exaone4",),
    layer=(
        qkv(),
        o_proj(),
        *gated_mlp(),
        *qk_norms(),
        *norms("post_attention_layernorm", "post_feedforward_layernorm"),
    ),
    root=root(tied=False),
    defaults={"num_key_value_heads": 32},
)
