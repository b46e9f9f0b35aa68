"""Muse Spark: experts on a narrower input, a gate for each row of the attention's output, gates on both residuals.

Norms of q, k, the attention's output and the embedding have no weights. Names are transformers', which are the
release's; experts are one tensor for all [E, 2I, H].
"""

from fp8load.archs.base import Arch, Dim, Experts, Flag, Only, Stacked, Tower, Vector, key
from fp8load.archs.decoder import column, gated_mlp, norms, o_proj, qkv, replicated, root
from fp8load.archs.layer_kinds import layer_type, opposite

ATTENTION_BIAS = Flag(key="attention_bias", default=False)
COUNT, SIZE, WIDTH = key("num_local_experts"), key("moe_intermediate_size"), key("moe_hidden_size")
IS_DENSE = layer_type("dense", key="mlp_layer_types")
OTHERS = "the vision or audio model, which fp8load keeps as stored"

MIXTURE = (
    replicated("mlp.gate", COUNT, free=True),
    Vector(name="mlp.gate.e_score_correction_bias", length=COUNT, free=True),
    replicated("mlp.pre_expert_proj", WIDTH),
    Vector(name="mlp.pre_expert_norm.weight", length=WIDTH),
    Experts(
        target="mlp.experts",
        count=COUNT,
        spellings=(gated_mlp(within="", size=SIZE, cols=WIDTH),),
        published=Stacked(),
        activation="normed-silu",  # what an expert puts out is normed before it is weighed
    ),
    Vector(name="mlp.experts.post_expert_norm.weight", length=WIDTH),
    replicated("mlp.post_expert_proj", Dim.HIDDEN, WIDTH),
)

ARCH = Arch(
    name="muse_spark",
    model_types=("muse_spark",),
    layer=(
        qkv(bias=ATTENTION_BIAS),
        o_proj(bias=ATTENTION_BIAS),
        column("self_attn.gate_proj", Dim.Q, Dim.HIDDEN, unit=key("head_dim")),
        Only(where=IS_DENSE, entries=gated_mlp()),
        Only(where=opposite(IS_DENSE), entries=MIXTURE),
        *norms("input_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
        Vector(name="post_attention_residual_gate.gate", length=Dim.HIDDEN),
        Vector(name="post_feedforward_residual_gate.gate", length=Dim.HIDDEN),
    ),
    root=(
        *root(tied=False),
        *(
            Tower(prefix=f"model.{name}", reason=OTHERS)
            for name in ("vision_tower", "vision_adapter", "vision_projection", "audio_tower")
        ),
    ),
    decoders=("model.language_model", "model"),
    text_config="text_config",
    defaults={
        "num_attention_heads": 128,
        "num_key_value_heads": 16,
        "head_dim": 64,
        "num_local_experts": 256,
        "moe_intermediate_size": 4096,
        "moe_hidden_size": 4096,
    },
)
