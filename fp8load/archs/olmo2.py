"""OLMo 2 and 3: norms after attention and MLP, and over all heads of q and of k at once: held whole on every rank."""

from fp8load.archs.base import Arch, Dim, Flag, Vector
from fp8load.archs.decoder import gated_mlp, norms, o_proj, qkv, root

ATTENTION_BIAS = Flag(key="attention_bias", default=False)

ARCH = Arch(
    name="olmo2",
    model_types=("olmo2", "olmo3"),
    layer=(
        qkv(bias=ATTENTION_BIAS),
        o_proj(bias=ATTENTION_BIAS),
        *gated_mlp(),
        *norms("post_attention_layernorm", "post_feedforward_layernorm"),
        Vector(name="self_attn.q_norm.weight", length=Dim.Q),
        Vector(name="self_attn.k_norm.weight", length=Dim.KV),
    ),
    root=root(tied=False),
)
