"""The one place that computes which rows or columns a rank holds.

Used by the plan builder for whole checkpoints and by the typed parameters for one tensor at a time, so both agree.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from fp8load.plan.plan import Rank


class Shard(enum.StrEnum):
    """How a linear layer is split over tensor-parallel ranks."""

    COLUMN = "column"
    """Output rows are split; each rank computes a part of the output."""
    ROW = "row"
    """Input columns are split; outputs are partial sums."""
    REPLICATED = "replicated"
    """Every rank holds everything."""
    VOCAB = "vocab"
    """Rows are split in ceil(vocabulary / ranks) pieces; the last ranks may hold fewer."""


class Span(NamedTuple):
    """`begin:end` along the split axis, and over how many ranks the same piece is repeated."""

    begin: int
    end: int
    replicas: int = 1


class CutError(ValueError):
    """A logical shard cannot be cut where a rank's share begins or ends. `str()` is the reason, `slot` the shard."""

    slot: str = ""


class UnevenSplitError(CutError):
    """The axis does not split evenly."""


def even_span(size: int, rank: Rank, *, unit: int = 1) -> Span:
    """An equal share of `size` elements, in whole units (a head's rows). Raises `UnevenSplitError`."""
    num_units, rest = divmod(size, unit)
    if rest or num_units % rank.tp_size:
        of = f"{num_units} heads of {unit}" if unit > 1 else f"{size}"
        raise UnevenSplitError(f"{of} do not divide over tp={rank.tp_size}")
    share = size // rank.tp_size
    return Span(rank.tp_rank * share, (rank.tp_rank + 1) * share)


def kv_head_span(num_kv_heads: int, head_dim: int, rank: Rank) -> Span:
    """Rows of the k or v projection: an equal share of the heads, or one head repeated where ranks outnumber heads."""
    if num_kv_heads % rank.tp_size == 0:
        return even_span(num_kv_heads * head_dim, rank, unit=head_dim)
    if rank.tp_size % num_kv_heads:
        raise UnevenSplitError(f"{num_kv_heads} KV heads neither divide over tp={rank.tp_size} nor repeat evenly")
    replicas = rank.tp_size // num_kv_heads
    head = rank.tp_rank // replicas
    return Span(head * head_dim, (head + 1) * head_dim, replicas)


def vocab_span(size: int, rank: Rank) -> Span:
    """ceil(size / ranks) rows for each rank; the last ranks hold fewer, or none."""
    share = -(-size // rank.tp_size)
    return Span(min(rank.tp_rank * share, size), min((rank.tp_rank + 1) * share, size))


def whole_span(size: int, rank: Rank) -> Span:
    """Everything, on every rank."""
    return Span(0, size, rank.tp_size)
