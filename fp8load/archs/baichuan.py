"""Baichuan 1 and 2: q, k and v are one module on disk, W_pack, with the rows of q first, then k, then v."""

from dataclasses import replace

from fp8load.archs.base import Arch
from fp8load.archs.decoder import LLAMA_NORMS, ROTARY, gated_mlp, o_proj, qkv, root

W_PACK = replace(qkv(), target="self_attn.W_pack")

ARCH = Arch(
    name="baichuan",
    model_types=("baichuan",),
    layer=(W_PACK, o_proj(), *gated_mlp(), *LLAMA_NORMS, ROTARY),
    root=root(tied=False),
)
