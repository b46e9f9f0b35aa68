"""StarCoder 2: an MLP without a gate, c_fc and c_proj; norms with a bias; one key decides about the other biases."""

from fp8load.archs.base import Arch, Flag
from fp8load.archs.decoder import layer_norms, o_proj, plain_mlp, qkv, root

USE_BIAS = Flag(key="use_bias", default=True)

ARCH = Arch(
    name="starcoder2",
    model_types=("starcoder2",),
    layer=(
        qkv(bias=USE_BIAS),
        o_proj(bias=USE_BIAS),
        *plain_mlp(bias=USE_BIAS, up="mlp.c_fc", down="mlp.c_proj"),
        *layer_norms("input_layernorm", "post_attention_layernorm"),
    ),
    root=root(tied=True, norm=layer_norms("model.norm")),
    defaults={"num_key_value_heads": 2},
)
