"""The first Qwen, and Qwen-VL: q, k and v are one module on disk, and the MLP's sizes are given together.

`w2` is the gate. Most biases are there for one key, that of q, k and v always (modeling_qwen.py).
"""

from collections.abc import Mapping
from typing import Any

from fp8load.archs.base import ALWAYS, TIED, Arch, Flag, Head, Table, Tower, Unused, key
from fp8load.archs.decoder import gated_mlp, norms, o_proj, packed_qkv

BIAS = ~Flag(key="no_bias", default=True)


def derived(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The MLP's size, half of what is said: that of gate and up together; as many KV heads as heads."""
    return {
        "intermediate_size": key("intermediate_size").of(config) // 2,
        "num_key_value_heads": key("num_attention_heads").of(config),
    }


ARCH = Arch(
    name="qwen",
    model_types=("qwen",),
    layers="transformer.h",
    attention="attn",
    layer=(
        packed_qkv("attn.c_attn", ALWAYS),
        o_proj(BIAS, module="attn.c_proj"),
        *gated_mlp(BIAS, names=("w2", "w1", "c_proj")),
        *norms("ln_1", "ln_2"),
    ),
    root=(
        Table(name="transformer.wte.weight"),
        *norms("transformer.ln_f"),
        Head(module="lm_head", tied=Flag(key=TIED, default=False)),
        Unused(name="transformer.rotary_emb.inv_freq", reason="computed from the base"),
        Tower(prefix="transformer.visual", reason="the vision model, which fp8load keeps as stored"),
    ),
    derived=derived,
    defaults={
        "hidden_size": 4096,
        "intermediate_size": 22_016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "head_dim": 128,
        "vocab_size": 151_936,
    },
    aliases={
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "ffn_hidden_size": "intermediate_size",
        "kv_channels": "head_dim",
    },
)
