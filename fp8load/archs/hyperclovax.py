"""HyperCLOVA X SEED: granite with two more norms where use_post_norm says so."""

from fp8load.archs.base import Arch, Dim, Flag, Vector
from fp8load.archs.decoder import LLAMA_NORMS, gated_mlp, o_proj, qkv, root

ATTENTION_BIAS = Flag(key="attention_bias", default=False)
MLP_BIAS = Flag(key="mlp_bias", default=False)
POST_NORM = Flag(key="use_post_norm", default=True)

ARCH = Arch(
    name="hyperclovax",
    model_types=("hyperclovax",),
    layer=(
        qkv(bias=ATTENTION_BIAS),
        o_proj(bias=ATTENTION_BIAS),
        *gated_mlp(bias=MLP_BIAS),
        *LLAMA_NORMS,
        Vector(name="post_norm1.weight", length=Dim.HIDDEN, when=POST_NORM),
        Vector(name="post_norm2.weight", length=Dim.HIDDEN, when=POST_NORM),
    ),
    root=root(tied=False),
)
