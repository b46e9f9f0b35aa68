"""Llama-Nemotron Super and Ultra: blocks that a search has made different (DeciLM, modeling_decilm.py).

`block_configs` says of each layer whether its attention is there, is one linear layer or is left out, and so for its
MLP; how many KV heads it has, and how large its MLP is. Without attention, or MLP, there is no norm before it either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fp8load.archs.base import Arch, Dim, Entry, Flag, Linear, Only, Part, Where, key
from fp8load.archs.decoder import ROTARY, gated_mlp, norms, o_proj, replicated, root
from fp8load.plan.shard import Shard

ATTENTION_BIAS = Flag(key="attention_bias", default=False, also=("bias",))
MLP_BIAS = Flag(key="mlp_bias", default=False)
HEAD = key("head_dim")
MULTIPLE = 256
"""Of an MLP's size that is given as a multiple of the hidden size."""
MAX_KINDS = 64
"""Of MLPs, by their size, and of attentions, by their number of KV heads."""


def block(config: Mapping[str, Any], layer: int, name: str) -> Mapping[str, Any]:
    """What the configuration says about a layer's "attention" or "ffn"; one of which it says nothing is not there."""
    blocks = config.get("block_configs")
    of_layer = blocks[layer] if isinstance(blocks, list) and layer < len(blocks) else None
    described = of_layer.get(name) if isinstance(of_layer, Mapping) else None
    return described if isinstance(described, Mapping) else {"no_op": True}


def is_there(name: str) -> Where:
    """Layers that have this block in some form."""
    return lambda config, layer: not block(config, layer, name).get("no_op")


def is_linear(name: str) -> Where:
    """Layers whose block is one linear layer."""
    return lambda config, layer: (
        is_there(name)(config, layer) and bool(block(config, layer, name).get("replace_with_linear"))
    )


def is_whole(name: str) -> Where:
    """Layers that have this block as other models do."""
    return lambda config, layer: is_there(name)(config, layer) and not is_linear(name)(config, layer)


def kv_size(config: Mapping[str, Any], layer: int) -> int:
    """The rows of k in a layer; 0 without attention."""
    queries = key("n_heads_in_group").of(block(config, layer, "attention"))
    heads = key("num_attention_heads").of(config)
    return heads // queries * head_dim(config) if queries and is_whole("attention")(config, layer) else 0


def mlp_size(config: Mapping[str, Any], layer: int) -> int:
    """The size of a layer's MLP; 0 without one."""
    described = block(config, layer, "ffn")
    factor = described.get("ffn_mult")
    if not is_whole("ffn")(config, layer):
        return 0
    if not isinstance(factor, int | float):
        return key("intermediate_size").of(described)
    return -(-int(2 * factor * key("hidden_size").of(config) / 3) // MULTIPLE) * MULTIPLE


def head_dim(config: Mapping[str, Any]) -> int:
    """The size of a head: an even share of the hidden size, where it is not given."""
    return HEAD.of(config) or (key("hidden_size") // key("num_attention_heads")).of(config)


def derived(config: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes that there are, which entries refer to by their places."""
    blocks = config.get("block_configs")
    layers = range(len(blocks) if isinstance(blocks, list) else 0)
    return {
        "head_dim": head_dim(config),
        "kv_sizes": sorted({kv_size(config, layer) for layer in layers} - {0}),
        "mlp_sizes": sorted({mlp_size(config, layer) for layer in layers} - {0}),
    }


def of_size(size: Callable[[Mapping[str, Any], int], int], listed: str, place: int) -> Where:
    """Layers with this one of the listed sizes."""
    return lambda config, layer: place < len(config[listed]) and size(config, layer) == config[listed][place]


def attention(place: int) -> Entry:
    """q, k and v, with one of the numbers of KV heads."""
    rows = key(f"kv_sizes[{place}]")
    return Linear(
        target="self_attn.qkv_proj",
        parts=(
            Part(slot="q", module="self_attn.q_proj", rows=Dim.Q),
            Part(slot="k", module="self_attn.k_proj", rows=rows, unit=HEAD, repeats=True),
            Part(slot="v", module="self_attn.v_proj", rows=rows, unit=HEAD, repeats=True),
        ),
        cols=Dim.HIDDEN,
        shard=Shard.COLUMN,
        bias=ATTENTION_BIAS,
    )


def mlp(place: int) -> tuple[Entry, ...]:
    """An MLP of one of the sizes."""
    return gated_mlp(MLP_BIAS, size=key(f"mlp_sizes[{place}]"))


ARCH = Arch(
    name="nemotron_nas",
    model_types=("nemotron-nas",),
    layer=(
        Only(where=is_there("attention"), entries=norms("input_layernorm")),
        Only(where=is_linear("attention"), entries=(replicated("self_attn.linear_attn", Dim.HIDDEN),)),
        Only(
            where=is_whole("attention"),
            entries=(
                *(
                    Only(where=of_size(kv_size, "kv_sizes", place), entries=(attention(place),))
                    for place in range(MAX_KINDS)
                ),
                o_proj(ATTENTION_BIAS),
                ROTARY,
            ),
        ),
        Only(where=is_there("ffn"), entries=norms("post_attention_layernorm")),
        Only(where=is_linear("ffn"), entries=(replicated("mlp.linear_mlp", Dim.HIDDEN),)),
        *(Only(where=of_size(mlp_size, "mlp_sizes", place), entries=mlp(place)) for place in range(MAX_KINDS)),
    ),
    root=root(tied=False),
    cached=is_whole("attention"),
    derived=derived,
)
