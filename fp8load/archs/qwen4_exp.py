"""Qwen4-Exp (Qwen3.8 Flash): qwen3_5's attention with an indexer, experts, several residual streams, tables of n-grams.

Names are transformers'; the layer for multi-token prediction, which transformers leaves out, is as engines read it from
the published files. A layer of `ple_layer_ids`, which count from 1, looks n-grams up: a table for each head of each
order, as many rows as the next prime, all in one table that is stored in `split_ngram_parts` pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import count, islice
from math import isqrt
from typing import Any

from fp8load.archs.base import Arch, Dim, Entry, Linear, Only, Part, Plain, Unused, Vector, Where, key
from fp8load.archs.decoder import norms, replicated, root
from fp8load.archs.layer_kinds import has, layer_type, opposite
from fp8load.archs.predictor import Predictor
from fp8load.archs.qwen3_5 import DEFAULTS, LINEAR_ATTENTION, TOWERS
from fp8load.archs.qwen3_5_moe import MIXTURE
from fp8load.archs.qwen3_next import FULL_ATTENTION
from fp8load.plan.shard import Shard

STREAMS, RANK, EMBED = key("hc_count"), key("hc_lowrank"), key("ple_embed_dim")
WIDE = STREAMS * key("hidden_size")
INDEX_HEAD = key("indexer_head_dim")
INDEX_ROWS = (key("indexer_n_heads") + key("indexer_kv_heads")) * INDEX_HEAD
GRAM_HEADS = key("ngram_size") * key("heads_per_ngram") + key("heads_per_ngram") * -1
MAX_TABLES = 4
MAX_PIECES = 512
MAX_HEADS = 64
MAX_ROWS = 2**28
"""Numbers above these are wrong, and must not make anyone look for primes."""


def derived(config: Mapping[str, Any]) -> dict[str, Any]:
    """The width of what n-grams are looked up as, and the rows of each piece of each table."""
    heads, start, parts = GRAM_HEADS.of(config), key("ngram_vocab_size_base").of(config), parts_of(config)
    multiple, found = max(key("make_ngram_vocab_size_divisible_by").of(config), 1), {}
    if 0 < heads <= MAX_HEADS and 0 < start <= MAX_ROWS and parts > 0:
        tables = min(len(with_tables(config)), MAX_TABLES)
        for table in range(tables):
            num_rows = sum(primes(start, heads * tables)[table * heads : (table + 1) * heads])
            padded = -(-num_rows // multiple) * multiple
            piece = -(-padded // parts)
            found[f"ngram_rows_{table}"] = [min(piece, padded - begin) for begin in range(0, padded, piece)]
    return {"ple_embed_dim": config.get("ple_embed_dim") or config.get("hidden_size"), **found}


def parts_of(config: Mapping[str, Any]) -> int:
    """In how many pieces a table is stored."""
    return min(key("split_ngram_parts").of(config), MAX_PIECES)


@cache
def primes(start: int, number: int) -> tuple[int, ...]:
    """So many primes from `start` on."""
    return tuple(islice(_primes(start), number))


def _primes(start: int) -> Iterator[int]:
    return (value for value in count(max(start, 2)) if all(value % by for by in range(2, isqrt(value) + 1)))


def with_tables(config: Mapping[str, Any]) -> list[int]:
    """Numbers of the layers that have a table of n-grams, from 0."""
    listed = config.get("ple_layer_ids")
    return sorted({one - 1 for one in listed if isinstance(one, int)}) if isinstance(listed, list) else []


def looks_up(table: int) -> Where:
    """The layer that has this table."""
    return lambda config, layer: with_tables(config)[table : table + 1] == [layer]


def has_piece(table: int, piece: int) -> Where:
    """The layers of a config that stores this table in more pieces than `piece`."""
    return lambda config, _layer: piece < len(config.get(f"ngram_rows_{table}") or ())


def looks_up_any(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer has a table."""
    return layer in with_tables(config)


def is_linear(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer has linear attention: listed, or all but every fourth."""
    if isinstance(config.get("layer_types"), list):
        return layer_type("linear_attention")(config, layer)
    return (layer + 1) % (key("full_attention_interval").of(config) or 4) != 0


def mixing(within: str) -> tuple[Entry, ...]:
    """How a block's input is mixed from the streams; whole on every rank."""
    return (
        Vector(name=f"{within}.hc_norm.weight", length=WIDE),
        replicated(f"{within}.input_mix_weight_down", RANK, WIDE),
        replicated(f"{within}.input_mix_weight_up", WIDE, RANK),
    )


def mixer(within: str) -> tuple[Entry, ...]:
    """How the output is mixed from the streams."""
    injection = "the last mix has no block behind it to inject"
    return (*mixing(within), Unused(name=f"{within}.block_inject_weight.weight", reason=injection))


BETWEEN: tuple[Entry, ...] = tuple(
    entry
    for block in ("attn_hyper_connection", "mlp_hyper_connection")
    for entry in (*mixing(block), replicated(f"{block}.block_inject_weight", STREAMS, WIDE))
)

ATTENTION: tuple[Entry | Only, ...] = (
    *FULL_ATTENTION,
    Only(
        where=has("indexer_n_heads"),
        entries=(
            replicated("self_attn.indexer.index_qk_proj", INDEX_ROWS),
            Vector(name="self_attn.indexer.q_layernorm.weight", length=INDEX_HEAD),
            Vector(name="self_attn.indexer.k_layernorm.weight", length=INDEX_HEAD),
        ),
    ),
)

LOOKED_UP: tuple[Entry, ...] = (
    Linear(
        target="ple.kv_proj",
        parts=(
            Part(slot="k", module="ple.key_proj", rows=WIDE),
            Part(slot="v", module="ple.value_proj", rows=Dim.HIDDEN),
        ),
        cols=EMBED,
        shard=Shard.REPLICATED,
    ),
    *(Vector(name=f"ple.{name}.weight", length=WIDE) for name in ("norm_key", "norm_query", "norm_conv")),
    Plain(name="ple.conv1d.weight", shape=(WIDE, 1, key("ple_conv_kernel_size"))),
    Plain(name="ple.ple_embedding.layer_multipliers", shape=(key("ngram_size"),), integer=True),
    Plain(name="ple.ple_embedding.ngram_heads_offsets", shape=(GRAM_HEADS,), integer=True),
    Plain(name="ple.ple_embedding.ngram_heads_vocab_sizes", shape=(GRAM_HEADS,), integer=True),
)


def pieces(table: int) -> tuple[Only, ...]:
    """The pieces of a table; whole on every rank, as stored."""
    return tuple(
        Only(
            where=has_piece(table, piece),
            entries=(
                replicated(
                    f"ple.ple_embedding.ngram_embedding.shard_{piece}",
                    key(f"ngram_rows_{table}[{piece}]"),
                    EMBED // GRAM_HEADS,
                ),
            ),
        )
        for piece in range(MAX_PIECES)
    )


ARCH = Arch(
    name="qwen4_exp",
    model_types=("qwen4_exp", "qwen4_exp_text"),
    layer=(
        Only(where=opposite(is_linear), entries=ATTENTION),
        Only(where=is_linear, entries=LINEAR_ATTENTION),
        Only(where=looks_up_any, entries=LOOKED_UP),
        *(Only(where=looks_up(table), entries=pieces(table)) for table in range(MAX_TABLES)),
        *MIXTURE,
        *BETWEEN,
    ),
    root=(*root(tied=False, norm=()), *mixer("model.hyper_connection_mixer"), *TOWERS),
    predictor=Predictor(
        layers="mtp.layers",
        layer=(*ATTENTION, *MIXTURE, *BETWEEN),
        count=key("mtp_num_hidden_layers"),
        root=(
            replicated("mtp.fc_embedding", Dim.HIDDEN),
            replicated("mtp.fc_hidden", Dim.HIDDEN),
            *norms("mtp.pre_fc_norm_embedding"),
            Vector(name="mtp.pre_fc_norm_hidden.weight", length=WIDE),
            *mixer("mtp.hyper_connection_mixer"),
        ),
    ),
    decoders=("model.language_model", "model"),
    text_config="text_config",
    derived=derived,
    defaults={
        **DEFAULTS,
        "num_key_value_heads": 2,
        "num_experts": 512,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "hc_count": 4,
        "hc_lowrank": 320,
        "ple_conv_kernel_size": 4,
        "ngram_size": 3,
        "heads_per_ngram": 8,
        "ngram_vocab_size_base": 20_000_000,
        "make_ngram_vocab_size_divisible_by": 128,
        "split_ngram_parts": 512,
    },
    aliases={"num_local_experts": "num_experts"},
)
