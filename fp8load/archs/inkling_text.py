"""Inkling's language model alone, in transformers' names: gate and up one after the other, or apart."""

from fp8load.archs.base import NEVER, Arch, Dim, Head, Plain, Stacked, Table
from fp8load.archs.decoder import experts, gated_mlp, norms
from fp8load.archs.inkling import ALIASES, COUNT, DEFAULTS, SHARED, SIZE, Names, derived

NAMES = Names(
    attention="self_attn",
    projections=("q_proj", "k_proj", "v_proj", "r_proj", "o_proj"),
    norms=("input_layernorm", "post_attention_layernorm"),
    convolution=".conv1d",
)

ARCH = Arch(
    name="inkling_text",
    model_types=("inkling_text",),
    layer=NAMES.layer(
        gated_mlp(),
        "mlp.gate.e_score_correction_bias",
        experts(COUNT, SIZE, published=Stacked()),
        *(Plain(name=f"mlp.shared_experts.{name}_proj", shape=(SHARED, SIZE, Dim.HIDDEN)) for name in ("gate", "up")),
        Plain(name="mlp.shared_experts.down_proj", shape=(SHARED, Dim.HIDDEN, SIZE)),
    ),
    root=(
        Table(name="model.embed_tokens.weight"),
        *norms("model.embed_tokens.embed_norm", "model.norm"),
        Head(module="lm_head", tied=NEVER),
    ),
    derived=derived,
    defaults=DEFAULTS,
    aliases=ALIASES,
)
