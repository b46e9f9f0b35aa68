"""InternLM3 8B: llama; the publisher's keys for biases are not those that transformers writes."""

from fp8load.archs.base import Arch, Flag
from fp8load.archs.decoder import LLAMA_NORMS, gated_mlp, o_proj, qkv, root

QKV_BIAS = Flag(key="qkv_bias", default=False, also=("attention_bias",))
BIAS = Flag(key="bias", default=False, also=("mlp_bias",))

ARCH = Arch(
    name="internlm3",
    model_types=("internlm3",),
    layer=(qkv(bias=QKV_BIAS), o_proj(bias=BIAS), *gated_mlp(bias=BIAS), *LLAMA_NORMS),
    root=root(tied=False),
    defaults={"num_key_value_heads": 2, "head_dim": 128},
    nullable=("num_key_value_heads", "head_dim"),
)
