"""What config.json says: numbers, sizes that are computed from them, yes and no."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

MAX_LAYERS = 1024
MAX_EXPERTS = 4096
"""A config.json that asks for more is wrong, and must not make anyone enumerate them."""


class Dim(enum.StrEnum):
    """A size that config.json gives."""

    HIDDEN = "hidden_size"
    INTERMEDIATE = "intermediate_size"
    Q = "num_attention_heads * head_dim"
    KV = "num_key_value_heads * head_dim"
    HEAD = "head_dim"
    HEADS = "num_attention_heads"
    KV_HEADS = "num_key_value_heads"
    VOCAB = "vocab_size"


@dataclass(frozen=True, slots=True)
class Size:
    """A size that config.json gives as a sum of products of its numbers, over another: `key("n_routed_experts")`, and
    what +, * and // make of it. An absent or null number counts as 0, and what is over 0 is 0.
    """

    terms: tuple[tuple[str | int, ...], ...]
    over: Size | None = None

    def of(self, config: Mapping[str, Any]) -> int:
        """The number for one config."""
        total = sum(prod(part if isinstance(part, int) else _number(config, part) for part in t) for t in self.terms)
        if self.over is None:
            return total
        divisor = self.over.of(config)
        return total // divisor if divisor else 0

    def __floordiv__(self, other: Size) -> Size:
        return Size(self.terms, other)

    def __add__(self, other: Size) -> Size:
        return Size((*self.terms, *other.terms))

    def __mul__(self, other: Size | int) -> Size:
        factors = ((other,),) if isinstance(other, int) else other.terms
        return Size(tuple((*left, *right) for left in self.terms for right in factors))


NOTHING = Size(())
"""Zero."""


def key(name: str) -> Size:
    """The number that stands under a key of config.json; "name[1]" is the second of the list there."""
    return Size(((name,),))


def constant(value: int) -> Size:
    """A number that no configuration changes."""
    return Size(((value,),))


Length = Dim | Size
"""How long an axis is, by the configuration."""


def _number(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if name.endswith("]"):
        key, _, place = name[:-1].partition("[")
        listed = config.get(key)
        value = listed[int(place)] if isinstance(listed, list) and int(place) < len(listed) else 0
    return value if isinstance(value, int) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """config.json's numbers under the field's names; 0 where a config does not give one. `config` has the others."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    config: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def of(self, dim: Length) -> int:
        """The number behind a symbolic size."""
        if isinstance(dim, Size):
            return dim.of(self.config)
        return {
            Dim.HIDDEN: self.hidden_size,
            Dim.INTERMEDIATE: self.intermediate_size,
            Dim.Q: self.num_heads * self.head_dim,
            Dim.KV: self.num_kv_heads * self.head_dim,
            Dim.HEAD: self.head_dim,
            Dim.HEADS: self.num_heads,
            Dim.KV_HEADS: self.num_kv_heads,
            Dim.VOCAB: self.vocab_size,
        }[dim]


def sizes(config: Mapping[str, Any]) -> Sizes:
    """Numbers from a language model's config, by the names that transformers uses. Absent or null ones become 0."""

    num_heads = _number(config, "num_attention_heads")
    hidden_size = _number(config, "hidden_size")
    head_dim = _number(config, "head_dim") or (hidden_size // num_heads if num_heads else 0)
    return Sizes(
        num_layers=_number(config, "num_hidden_layers"),
        hidden_size=hidden_size,
        intermediate_size=_number(config, "intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=_number(config, "num_key_value_heads") or num_heads,
        head_dim=head_dim,
        vocab_size=_number(config, "vocab_size"),
        config=config,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A yes or no that config.json decides: `key`, and what holds where the key is absent.

    `also` lists other names of the key, where publisher and transformers differ; the first one there counts.
    """

    key: str
    default: bool
    also: tuple[str, ...] = ()
    negated: bool = False

    def of(self, config: Mapping[str, Any]) -> bool:
        """The value for one config."""
        values = (config.get(key) for key in (self.key, *self.also))
        return bool(next((value for value in values if value is not None), self.default)) is not self.negated

    def __invert__(self) -> Flag:
        """The opposite: `~flag`."""
        return replace(self, negated=not self.negated)


NEVER = Flag(key="", default=False)
ALWAYS = Flag(key="", default=True)
