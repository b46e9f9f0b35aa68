"""Inkling 2: Inkling's attention with gates and sinks, every layer with experts, attention over earlier blocks' states.

Names are the release's, which transformers renames on loading. Layers with full attention norm the input of q, k and v
each by its own, so these are layers of their own; their convolutions' taps depend on the input. A query for each layer
but the first, three for one with full attention, and one for each MLP stand beside the layers.
"""

from collections.abc import Mapping
from typing import Any

from fp8load.archs.base import (
    NEVER,
    Arch,
    Dim,
    Entry,
    Head,
    Linear,
    Only,
    Plain,
    Stacked,
    Table,
    Tower,
    Vector,
    Where,
    key,
)
from fp8load.archs.decoder import W1_W3_W2, column, experts, norms, replicated
from fp8load.archs.inkling import ALIASES, COUNT, DEFAULTS, KERNEL, REL, RELEASED, SIZE, heads_of, slides
from fp8load.archs.layer_kinds import opposite
from fp8load.plan.shard import Shard

VISION = "the vision model, which fp8load keeps as stored"
MAX_LAYERS = 256


def attention(named: str) -> tuple[Entry, ...]:
    """What both kinds of attention have, with sizes under keys that begin with `named`."""
    heads, _, head = heads_of(named)
    extent = key("sliding_window_size") if named else key("rel_extent")
    return (
        RELEASED.output(named),
        column("attn.gate_attn", heads * head, Dim.HIDDEN, unit=head),
        replicated("attn.attn_sink_proj", heads),
        Plain(name="attn.q_l2_clip.scale", shape=(heads, head), split=(heads,)),
        Plain(name="attn.rel_l2_clip.scale", shape=(heads, REL), split=(heads,)),
        Plain(name="attn.rel_logits_proj.proj", shape=(REL, extent)),
    )


def sliding() -> tuple[Entry, ...]:
    """A layer's attention where it slides."""
    _, kv, head = heads_of("swa_")
    convolutions = (RELEASED.conv(f"attn.{name}_sconv", kv * head) for name in "kv")
    return (RELEASED.qkvr("swa_"), *attention("swa_"), *convolutions, *norms("attn_norm"))


def full() -> tuple[Entry, ...]:
    """A layer's attention where it does not."""
    _, kv, head = heads_of("")
    apart = (
        Linear(target=part.module, parts=(part,), cols=Dim.HIDDEN, shard=Shard.COLUMN) for part in RELEASED.parts("")
    )
    convolutions = (
        plain
        for name in "kv"
        for plain in (
            Plain(name=f"attn.{name}_sconv.static_w", shape=(KERNEL, kv * head), free=True),
            Plain(name=f"attn.{name}_sconv.weight_proj", shape=(kv * KERNEL, Dim.HIDDEN), free=True),
        )
    )
    return (*apart, *attention(""), *convolutions, *norms("q_input_norm", "k_input_norm", "v_input_norm"))


def looks_back(number: int, *, slides_there: bool) -> Where:
    """Whether there is a layer behind this one, and whether that one slides."""

    def where(config: Mapping[str, Any], layer: int) -> bool:
        del layer
        return number + 1 < key("num_hidden_layers").of(config) and slides(config, number + 1) is slides_there

    return where


QUERIES = "model.llm.attn_res.attn_queries"

BLOCKS: tuple[Entry | Only, ...] = (
    *(
        only
        for number in range(MAX_LAYERS)
        for only in (
            Only(
                where=looks_back(number, slides_there=True),
                entries=(Vector(name=f"{QUERIES}.{number}", length=Dim.HIDDEN, free=True),),
            ),
            Only(
                where=looks_back(number, slides_there=False),
                entries=(Plain(name=f"{QUERIES}.{number}", shape=(3, Dim.HIDDEN), free=True),),
            ),
        )
    ),
    Vector(name="model.llm.attn_res.mlp_queries.*", length=Dim.HIDDEN, times=key("num_hidden_layers"), free=True),
    Vector(name="model.llm.attn_res.output_query", length=Dim.HIDDEN, free=True),
)
"""Queries over the states of earlier blocks."""

ARCH = Arch(
    name="inkling2",
    model_types=("inkling2", "inkling2_text"),
    layers="model.llm.layers",
    attention="attn",
    layer=(
        Only(where=slides, entries=sliding()),
        Only(where=opposite(slides), entries=full()),
        *(RELEASED.conv(name, key("hidden_size")) for name in ("attn_sconv", "mlp_sconv")),
        *norms("mlp_norm"),
        Plain(name="mlp.gate.weight", shape=(COUNT, Dim.HIDDEN), free=True),
        Vector(name="mlp.gate.bias", length=COUNT, free=True),
        experts(
            COUNT,
            SIZE,
            names=(W1_W3_W2,),
            published=Stacked(interleaved=True, suffix="_weight"),
            activation="softcapped-swiglu",
        ),
    ),
    root=(
        Table(name="model.llm.embed.weight"),
        *norms("model.llm.embed_norm", "model.llm.norm"),
        Head(module="model.llm.unembed", tied=NEVER),
        *BLOCKS,
        Tower(prefix="model.visual", reason=VISION),
    ),
    text_config="text_config",
    defaults={
        **DEFAULTS,
        "num_attention_heads": 48,
        "swa_num_attention_heads": 48,
        "swa_num_key_value_heads": 8,
        "sliding_window_size": 1024,
        "moe_intermediate_size": 2304,
        "n_routed_experts": 384,
    },
    aliases={**ALIASES, "intermediate_size": "moe_intermediate_size"},
)
