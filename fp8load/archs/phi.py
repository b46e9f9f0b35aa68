"""Phi-1, 1.5 and 2: biases everywhere, on norms and head too; attention and an MLP without a gate share one norm."""

from fp8load.archs.base import ALWAYS, Arch, Dim, Flag, Vector
from fp8load.archs.decoder import layer_norms, o_proj, plain_mlp, qkv, root

QK_NORM = Flag(key="qk_layernorm", default=False)
QK_NORMS = tuple(
    Vector(name=f"self_attn.{part}_layernorm.{what}", length=Dim.HEAD, when=QK_NORM)
    for part in ("q", "k")
    for what in ("weight", "bias")
)

ARCH = Arch(
    name="phi",
    model_types=("phi",),
    layer=(
        qkv(bias=ALWAYS),
        o_proj(bias=ALWAYS, module="self_attn.dense"),
        *plain_mlp(bias=ALWAYS, up="mlp.fc1", down="mlp.fc2"),
        *layer_norms("input_layernorm"),
        *QK_NORMS,
    ),
    root=root(tied=False, norm=layer_norms("model.final_layernorm"), head_bias=ALWAYS),
)
