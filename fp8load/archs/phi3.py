"""Phi-3 and Phi-4: qkv_proj and gate_up_proj are fused on disk."""

from fp8load.archs.base import Arch
from fp8load.archs.decoder import LLAMA_NORMS, gated_mlp, o_proj, qkv, root

ARCH = Arch(
    name="phi3",
    model_types=("phi3",),
    layer=(qkv(), o_proj(), *gated_mlp(), *LLAMA_NORMS),
    root=root(tied=False),
)
