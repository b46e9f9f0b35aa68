"""MiMo 7B (Xiaomi): qwen2, with layers beside the others that guess further tokens."""

from fp8load.archs.base import ALWAYS, Arch, Tower
from fp8load.archs.decoder import LLAMA_NORMS, gated_mlp, o_proj, qkv, root

MTP = "layers for speculative decoding, which fp8load keeps as stored"

ARCH = Arch(
    name="mimo",
    model_types=("mimo",),
    layer=(qkv(bias=ALWAYS), o_proj(), *gated_mlp(), *LLAMA_NORMS),
    root=(*root(tied=False), Tower(prefix="model.mtp_layers", reason=MTP)),
    defaults={"num_key_value_heads": 32},
    nullable=("num_key_value_heads",),
)
