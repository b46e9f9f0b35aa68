"""LFM2 8B-A1B: short convolutions in most layers, attention in the others; the first layers dense.

The convolution's in_proj is three gates one after the other; mixers are whole on every rank.
"""

from fp8load.archs.base import Arch, Dim, Entry, Flag, Only, Plain, Vector, key
from fp8load.archs.decoder import W1_W3_W2, experts, gated_mlp, norms, o_proj, qk_norms, qkv, replicated, root
from fp8load.archs.layer_kinds import both, dense_first, has, layer_type, opposite

CONV_BIAS = Flag(key="conv_bias", default=False)
COUNT, SIZE = key("num_experts"), key("moe_intermediate_size")
IS_DENSE, IS_ATTENTION = dense_first("num_dense_layers"), layer_type("full_attention")

CONVOLUTION: tuple[Entry, ...] = (
    replicated("conv.in_proj", key("hidden_size") * 3, bias=CONV_BIAS),
    replicated("conv.out_proj", Dim.HIDDEN, bias=CONV_BIAS),
    Plain(name="conv.conv.weight", shape=(Dim.HIDDEN, 1, key("conv_L_cache"))),
    Vector(name="conv.conv.bias", length=Dim.HIDDEN, when=CONV_BIAS),
)

ATTENTION: tuple[Entry, ...] = (
    qkv(),
    o_proj(module="self_attn.out_proj"),
    *qk_norms("self_attn.q_layernorm", "self_attn.k_layernorm"),
)

ARCH = Arch(
    name="lfm2_moe",
    model_types=("lfm2_moe",),
    layer=(
        Only(where=opposite(IS_ATTENTION), entries=CONVOLUTION),
        Only(where=IS_ATTENTION, entries=ATTENTION),
        Only(where=IS_DENSE, entries=gated_mlp(within="feed_forward.", names=W1_W3_W2, fused="w13")),
        Only(
            where=opposite(IS_DENSE),
            entries=(
                replicated("feed_forward.gate", COUNT),
                experts(COUNT, SIZE, within="feed_forward.experts", names=(W1_W3_W2,)),
            ),
        ),
        Only(
            where=both(opposite(IS_DENSE), has("use_expert_bias")),
            entries=(Vector(name="feed_forward.expert_bias", length=COUNT, free=True),),
        ),
        *norms("operator_norm", "ffn_norm"),
    ),
    root=root(tied=True, norm=norms("model.embedding_norm")),
    defaults={
        "num_key_value_heads": 8,
        "num_experts": 32,
        "num_dense_layers": 2,
        "moe_intermediate_size": 1792,
        "conv_L_cache": 3,
        "use_expert_bias": True,
    },
    aliases={"num_local_experts": "num_experts"},
)
