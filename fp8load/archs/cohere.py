"""Command R, R7B and A, Aya: attention and MLP share one norm; R+ has one for each head of q and k; a tied head."""

from fp8load.archs.base import Arch, Dim, Flag, Vector
from fp8load.archs.decoder import gated_mlp, norms, o_proj, qkv, root

ATTENTION_BIAS = Flag(key="attention_bias", default=False)
QK_NORM = Flag(key="use_qk_norm", default=False)

ARCH = Arch(
    name="cohere",
    model_types=("cohere", "cohere2"),
    layer=(
        qkv(bias=ATTENTION_BIAS),
        o_proj(bias=ATTENTION_BIAS),
        *gated_mlp(),
        *norms("input_layernorm"),
        Vector(name="self_attn.q_norm.weight", length=Dim.HEAD, times=Dim.HEADS, when=QK_NORM),
        Vector(name="self_attn.k_norm.weight", length=Dim.HEAD, times=Dim.KV_HEADS, when=QK_NORM),
    ),
    root=root(tied=True),
)
