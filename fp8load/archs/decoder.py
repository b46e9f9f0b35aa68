"""The layout that llama made common, as building blocks: families are made from these and differ by constants."""

from __future__ import annotations

from fp8load.archs.base import (
    ALWAYS,
    NEVER,
    TIED,
    Dim,
    Entry,
    Experts,
    Flag,
    Head,
    Length,
    Linear,
    Part,
    Size,
    Stacked,
    Table,
    Unused,
    Vector,
)
from fp8load.plan.shard import Shard


def qkv(bias: Flag = NEVER, *, within: str = "self_attn.") -> Linear:
    """q, k and v projections, fused into qkv_proj; split by heads."""
    return Linear(
        target=f"{within}qkv_proj",
        parts=(
            Part(slot="q", module=f"{within}q_proj", rows=Dim.Q),
            Part(slot="k", module=f"{within}k_proj", rows=Dim.KV),
            Part(slot="v", module=f"{within}v_proj", rows=Dim.KV),
        ),
        cols=Dim.HIDDEN,
        shard=Shard.COLUMN,
        bias=bias,
    )


def of_heads(heads: Size, head: Size, bias: Flag = NEVER) -> tuple[Linear, Linear]:
    """qkv_proj and o_proj of a layer with a number of heads of its own; KV heads are the model's."""
    parts = (
        Part(slot="q", module="self_attn.q_proj", rows=heads * head, unit=head),
        Part(slot="k", module="self_attn.k_proj", rows=Dim.KV),
        Part(slot="v", module="self_attn.v_proj", rows=Dim.KV),
    )
    fused = Linear(target="self_attn.qkv_proj", parts=parts, cols=Dim.HIDDEN, shard=Shard.COLUMN, bias=bias)
    return fused, row("self_attn.o_proj", Dim.HIDDEN, heads * head, unit=head, bias=bias)


def packed_qkv(module: str, bias: Flag = NEVER, *, groups: Length | None = None) -> Linear:
    """q, k and v as one module on disk: [q; k; v], or `groups` groups of rows that hold a share of each in this order.

    KV heads as groups are [KV heads, queries of one + 2, head]; with as many as heads, that is [heads, 3, head].
    """
    parts = tuple(
        Part(slot=slot, module=module, rows=size) for slot, size in (("q", Dim.Q), ("k", Dim.KV), ("v", Dim.KV))
    )
    return Linear(target=module, parts=parts, cols=Dim.HIDDEN, shard=Shard.COLUMN, bias=bias, groups=groups)


def o_proj(bias: Flag = NEVER, *, module: str = "self_attn.o_proj") -> Linear:
    """The attention's output projection, split by input columns."""
    part = Part(slot="o", module=module, rows=Dim.HIDDEN)
    return Linear(target=module, parts=(part,), cols=Dim.Q, shard=Shard.ROW, bias=bias)


def gated_mlp(
    bias: Flag = NEVER,
    *,
    within: str = "mlp.",
    size: Length = Dim.INTERMEDIATE,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
    fused: str = "gate_up_proj",
    cols: Length = Dim.HIDDEN,
) -> tuple[Linear, Linear]:
    """gate and up projections, fused into gate_up_proj, and the down projection, all named under `within`."""
    gate, up, down = (within + name for name in names)
    return (
        Linear(
            target=within + fused,
            parts=(Part(slot="gate", module=gate, rows=size), Part(slot="up", module=up, rows=size)),
            cols=cols,
            shard=Shard.COLUMN,
            bias=bias,
        ),
        Linear(
            target=down,
            parts=(Part(slot="down", module=down, rows=cols),),
            cols=size,
            shard=Shard.ROW,
            bias=bias,
        ),
    )


PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
W1_W3_W2 = ("w1", "w3", "w2")


def experts(
    count: Length,
    size: Length,
    *,
    within: str = "mlp.experts",
    names: tuple[tuple[str, str, str], ...] = (PROJECTIONS,),
    published: Stacked | None = None,
    bias: Flag = NEVER,
    activation: str = "silu",
    limit: tuple[str, float] | None = None,
) -> Experts:
    """Routed experts with a gate each. `names`: of gate, up and down, the published ones first, then those of tools."""
    return Experts(
        target=within,
        count=count,
        spellings=tuple(
            gated_mlp(bias, within="", size=size, names=one, fused="w13" if one == W1_W3_W2 else "gate_up_proj")
            for one in names
        ),
        published=published,
        activation=activation,
        limit=limit,
    )


def replicated(
    module: str, rows: Length, cols: Length = Dim.HIDDEN, bias: Flag = NEVER, *, free: bool = False
) -> Linear:
    """A linear layer that every rank holds whole: a router, a compression."""
    part = Part(slot=module.rpartition(".")[2], module=module, rows=rows)
    return Linear(target=module, parts=(part,), cols=cols, shard=Shard.REPLICATED, bias=bias, free=free)


def column(module: str, rows: Length, cols: Length, *, unit: Length | None = None, bias: Flag = NEVER) -> Linear:
    """One linear layer that is split over its output rows."""
    part = Part(slot=module.rpartition(".")[2], module=module, rows=rows, unit=unit)
    return Linear(target=module, parts=(part,), cols=cols, shard=Shard.COLUMN, bias=bias)


def row(module: str, rows: Length, cols: Length, *, unit: Length | None = None, bias: Flag = NEVER) -> Linear:
    """One linear layer that is split over its input columns."""
    part = Part(slot=module.rpartition(".")[2], module=module, rows=rows)
    return Linear(target=module, parts=(part,), cols=cols, shard=Shard.ROW, bias=bias, unit=unit)


def plain_mlp(
    bias: Flag = NEVER,
    *,
    up: str = "mlp.up_proj",
    down: str = "mlp.down_proj",
    size: Length = Dim.INTERMEDIATE,
    cols: Length = Dim.HIDDEN,
) -> tuple[Linear, Linear]:
    """An up projection without a gate, and the down projection."""
    ups, downs = Part(slot="up", module=up, rows=size), Part(slot="down", module=down, rows=cols)
    return (
        Linear(target=up, parts=(ups,), cols=cols, shard=Shard.COLUMN, bias=bias),
        Linear(target=down, parts=(downs,), cols=size, shard=Shard.ROW, bias=bias),
    )


def norms(*names: str) -> tuple[Vector, ...]:
    """Norms over the hidden size."""
    return tuple(Vector(name=f"{name}.weight", length=Dim.HIDDEN) for name in names)


def layer_norms(*names: str) -> tuple[Vector, ...]:
    """Norms over the hidden size that have a bias."""
    return (*norms(*names), *(Vector(name=f"{name}.bias", length=Dim.HIDDEN) for name in names))


def qk_norms(q: str = "self_attn.q_norm", k: str = "self_attn.k_norm") -> tuple[Vector, Vector]:
    """Norms over one head of q and of k."""
    return (Vector(name=f"{q}.weight", length=Dim.HEAD), Vector(name=f"{k}.weight", length=Dim.HEAD))


LLAMA_NORMS = norms("input_layernorm", "post_attention_layernorm")

ROTARY = Unused(name="self_attn.rotary_emb.inv_freq", reason="computed from rope_theta; early exports stored it")


def root(*, tied: bool, norm: tuple[Vector, ...] = norms("model.norm"), head_bias: Flag = NEVER) -> tuple[Entry, ...]:
    """Embedding, final norm and head; `tied` is the family's default of tie_word_embeddings."""
    head = Head(module="lm_head", tied=Flag(key=TIED, default=tied), bias=head_bias)
    rotary = Unused(name="model.rotary_emb.inv_freq", reason="computed from rope_theta; some exports store it")
    return (Table(name="model.embed_tokens.weight"), *norm, head, rotary)


__all__ = [
    "ALWAYS",
    "LLAMA_NORMS",
    "NEVER",
    "PROJECTIONS",
    "ROTARY",
    "W1_W3_W2",
    "column",
    "experts",
    "gated_mlp",
    "layer_norms",
    "norms",
    "o_proj",
    "packed_qkv",
    "plain_mlp",
    "qk_norms",
    "qkv",
    "replicated",
    "root",
    "row",
]
