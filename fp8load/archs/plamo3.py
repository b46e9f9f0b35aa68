"""PLaMo 3: q, k and v, and gate and up, are one module each on disk; four norms a layer, norms on the heads of q and k.

Layers are counted within a module that is called "layers" too. Names are those of the publisher's and of vLLM's model.
"""

from fp8load.archs.base import Arch
from fp8load.archs.decoder import gated_mlp, norms, o_proj, packed_qkv, qk_norms, root

ARCH = Arch(
    name="plamo3",
    model_types=("plamo3",),
    layers="model.layers.layers",
    attention="mixer",
    layer=(
        packed_qkv("mixer.qkv_proj"),
        o_proj(module="mixer.o_proj"),
        *qk_norms("mixer.q_norm", "mixer.k_norm"),
        *gated_mlp(names=("gate_up_proj", "gate_up_proj", "down_proj")),
        *norms("pre_mixer_norm", "post_mixer_norm", "pre_mlp_norm", "post_mlp_norm"),
    ),
    root=root(tied=True),
    defaults={
        "hidden_size": 4096,
        "intermediate_size": 13_312,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "vocab_size": 32_000,
    },
)
