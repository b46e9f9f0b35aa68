"""Mistral 7B and its successors in transformers' layout, Ministral 8B among them: llama without biases."""

from fp8load.archs.base import Arch
from fp8load.archs.decoder import LLAMA_NORMS, gated_mlp, o_proj, qkv, root

ARCH = Arch(
    name="mistral",
    model_types=("mistral", "ministral"),
    layer=(qkv(), o_proj(), *gated_mlp(), *LLAMA_NORMS),
    root=root(tied=False),
    defaults={"num_key_value_heads": 8},
)
