"""StableLM 3B, StableLM 2 and Stable Code: norms with a bias; 2 12B has a norm for each head, and no second norm."""

from fp8load.archs.base import Arch, Dim, Flag, Vector
from fp8load.archs.decoder import gated_mlp, layer_norms, o_proj, qkv, root

QKV_BIAS = Flag(key="use_qkv_bias", default=False)
QK_NORM = Flag(key="qk_layernorm", default=False)
PARALLEL = Flag(key="use_parallel_residual", default=False)
SECOND_NORM = tuple(
    Vector(name=f"post_attention_layernorm.{what}", length=Dim.HIDDEN, when=~PARALLEL) for what in ("weight", "bias")
)

ARCH = Arch(
    name="stablelm",
    model_types=("stablelm",),
    layer=(
        qkv(bias=QKV_BIAS),
        o_proj(),
        *gated_mlp(),
        *layer_norms("input_layernorm"),
        *SECOND_NORM,
        Vector(name="self_attn.q_layernorm.norms.*.weight", length=Dim.HEAD, times=Dim.HEADS, when=QK_NORM),
        Vector(name="self_attn.k_layernorm.norms.*.weight", length=Dim.HEAD, times=Dim.KV_HEADS, when=QK_NORM),
    ),
    root=root(tied=False, norm=layer_norms("model.norm")),
    defaults={"num_key_value_heads": 32},
)
