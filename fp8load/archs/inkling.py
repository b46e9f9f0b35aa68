"""Inkling: sliding and full attention with relative positions, short convolutions, a router that scores shared experts.

Names are the release's, which transformers renames on loading; gate and up lie in alternating rows, in the MLP, whose
first layer stays so, in the experts and in the shared ones. Convolutions, and
the shared experts, which one tensor holds, are whole on every rank. The layers for multi-token prediction are counted
in a part of the configuration that is not the language model's: they stay as stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from fp8load.archs.base import (
    NEVER,
    Arch,
    Dim,
    Entry,
    Head,
    Linear,
    Only,
    Part,
    Plain,
    Size,
    Stacked,
    Table,
    Tower,
    Vector,
    constant,
    key,
)
from fp8load.archs.decoder import W1_W3_W2, column, experts, norms, row
from fp8load.archs.layer_kinds import dense_first, opposite
from fp8load.plan.shard import Shard

COUNT, SHARED, SIZE = key("n_routed_experts"), key("n_shared_experts"), key("moe_intermediate_size")
KERNEL, REL = key("conv_kernel_size"), key("d_rel")
OTHERS = "the vision or audio model, or layers for multi-token prediction, which fp8load keeps as stored"
IS_DENSE = dense_first("dense_mlp_idx")


def derived(config: Mapping[str, Any]) -> dict[str, Any]:
    """The size of an expert and of an MLP, which the release calls intermediate_size and dense_intermediate_size."""
    dense = config.get("dense_intermediate_size")
    return {"moe_intermediate_size": config["intermediate_size"], "intermediate_size": dense} if dense else {}


def slides(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer has sliding attention: listed, or all but every sixth."""
    listed, local = config.get("layer_types"), config.get("local_layer_ids")
    if isinstance(listed, list) and layer < len(listed):
        return bool(listed[layer] == "hybrid_sliding")
    return layer in local if isinstance(local, list) else (layer + 1) % 6 != 0


def heads_of(named: str) -> tuple[Size, Size, Size]:
    """Heads, KV heads and the size of one, under keys that begin with `named`."""
    return key(f"{named}num_attention_heads"), key(f"{named}num_key_value_heads"), key(f"{named}head_dim")


class Names(NamedTuple):
    """What a layer's tensors are called: its attention, the projections of q, k, v, r and its output, and the norms.

    `convolution` is what stands behind the name of one.
    """

    attention: str
    projections: tuple[str, str, str, str, str]
    norms: tuple[str, str]
    convolution: str = ""

    def conv(self, name: str, channels: Size) -> Plain:
        """A convolution over some channels."""
        return Plain(name=f"{name}{self.convolution}.weight", shape=(channels, 1, KERNEL), free=True)

    def mixer(self, named: str, extent: Size) -> tuple[Entry, ...]:
        """Attention whose sizes stand under keys that begin with `named`, and that looks so far back."""
        _, kv, head = heads_of(named)
        within = f"{self.attention}."
        return (
            self.qkvr(named),
            self.output(named),
            self.conv(f"{within}k_sconv", kv * head),
            self.conv(f"{within}v_sconv", kv * head),
            Vector(name=f"{within}q_norm.weight", length=head),
            Vector(name=f"{within}k_norm.weight", length=head),
            Plain(name=f"{within}rel_logits_proj.proj", shape=(REL, extent)),
        )

    def parts(self, named: str) -> tuple[Part, Part, Part, Part]:
        """q, k, v and r of an attention whose sizes stand under keys that begin with `named`."""
        heads, kv, head = heads_of(named)
        q, k, v, r = (f"{self.attention}.{name}" for name in self.projections[:4])
        return (
            Part(slot="q", module=q, rows=heads * head, unit=head),
            Part(slot="k", module=k, rows=kv * head, unit=head, repeats=True),
            Part(slot="v", module=v, rows=kv * head, unit=head, repeats=True),
            Part(slot="r", module=r, rows=heads * REL, unit=REL),
        )

    def qkvr(self, named: str) -> Linear:
        """The four as one layer, where they read the same input."""
        target = f"{self.attention}.qkvr"
        return Linear(target=target, parts=self.parts(named), cols=Dim.HIDDEN, shard=Shard.COLUMN)

    def output(self, named: str) -> Linear:
        """The attention's output projection."""
        heads, _, head = heads_of(named)
        return row(f"{self.attention}.{self.projections[4]}", Dim.HIDDEN, heads * head, unit=head)

    def layer(self, mlp: tuple[Entry, ...], correction: str, *routed: Entry) -> tuple[Entry | Only, ...]:
        """A whole layer, with this MLP or with these experts and a router."""
        return (
            Only(where=slides, entries=self.mixer("swa_", key("sliding_window_size"))),
            Only(where=opposite(slides), entries=self.mixer("", key("rel_extent"))),
            self.conv("attn_sconv", key("hidden_size")),
            self.conv("mlp_sconv", key("hidden_size")),
            *norms(*self.norms),
            Only(where=IS_DENSE, entries=(*mlp, Vector(name="mlp.global_scale", length=constant(1), free=True))),
            Only(
                where=opposite(IS_DENSE),
                entries=(
                    # no linear layer: its bias has fewer elements than it has rows, one for each routed expert
                    Plain(name="mlp.gate.weight", shape=(COUNT + SHARED, Dim.HIDDEN), free=True),
                    Vector(name=correction, length=COUNT, free=True),
                    Vector(name="mlp.gate.global_scale", length=constant(1), free=True),
                    *routed,
                ),
            ),
        )


DENSE: tuple[Entry, ...] = (
    # pairs of rows stay together, and in their order: blocks that go over both cannot be taken apart
    column("mlp.w13_dn", key("intermediate_size") * 2, Dim.HIDDEN, unit=constant(2)),
    row("mlp.w2_md", Dim.HIDDEN, Dim.INTERMEDIATE),
)

RELEASED = Names(
    attention="attn",
    projections=("wq_du", "wk_dv", "wv_dv", "wr_du", "wo_ud"),
    norms=("attn_norm", "mlp_norm"),
)

DEFAULTS = {
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "swa_num_attention_heads": 64,
    "swa_num_key_value_heads": 16,
    "swa_head_dim": 128,
    "sliding_window_size": 512,
    "d_rel": 16,
    "rel_extent": 1024,
    "conv_kernel_size": 4,
    "intermediate_size": 24_576,
    "moe_intermediate_size": 3072,
    "n_routed_experts": 256,
    "n_shared_experts": 2,
}
ALIASES = {
    "sliding_window": "sliding_window_size",
    "num_local_experts": "n_routed_experts",
    "sconv_kernel_size": "conv_kernel_size",
}

ARCH = Arch(
    name="inkling",
    model_types=("inkling_mm_model",),
    layers="model.llm.layers",
    attention="attn",
    layer=RELEASED.layer(
        DENSE,
        "mlp.gate.bias",
        experts(COUNT, SIZE, names=(W1_W3_W2,), published=Stacked(interleaved=True, suffix="_weight")),
        Plain(name="mlp.shared_experts.shared_w13_weight", shape=(SHARED, SIZE * 2, Dim.HIDDEN)),
        Plain(name="mlp.shared_experts.shared_w2_weight", shape=(SHARED, Dim.HIDDEN, SIZE)),
    ),
    root=(
        Table(name="model.llm.embed.weight"),
        *norms("model.llm.embed_norm", "model.llm.norm"),
        Head(module="model.llm.unembed", tied=NEVER),
        *(Tower(prefix=f"model.{name}", reason=OTHERS) for name in ("audio", "visual", "mtp")),
    ),
    text_config="text_config",
    derived=derived,
    defaults=DEFAULTS,
    aliases=ALIASES,
)
