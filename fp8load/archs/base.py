"""The vocabulary in which a model family is written down, and the sizes it needs from config.json.

A family lists every tensor that its checkpoints hold, once for a layer and once for the root; names are whole dotted
components, never substrings. That list is what makes a missing norm or an extra tensor visible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fp8load.archs.numbers import (
    ALWAYS,
    MAX_EXPERTS,
    NEVER,
    NOTHING,
    Dim,
    Flag,
    Length,
    Size,
    Sizes,
    constant,
    key,
    sizes,
)
from fp8load.archs.published import Stacked
from fp8load.plan.shard import Shard

__all__ = [
    "ALWAYS",
    "NEVER",
    "TIED",
    "Arch",
    "Dim",
    "Entry",
    "Experts",
    "Flag",
    "Head",
    "Length",
    "Linear",
    "Only",
    "Part",
    "Plain",
    "Size",
    "Sizes",
    "Stacked",
    "Table",
    "Tower",
    "Unused",
    "Vector",
    "Where",
    "constant",
    "entries_of",
    "key",
    "sizes",
]

if TYPE_CHECKING:
    from fp8load.archs.predictor import Predictor
    from fp8load.index.index import Index


TIED = "tie_word_embeddings"

COUNTED = "*"
"""The component of a vector's name that counts its tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One member of a fused linear layer: its slot, its module on disk, and its rows.

    `module` is empty where no checkpoint stores the part alone: its rows are a part of the layer's `target`.
    `unit` is how many rows stay together on one rank, where that is not said by `rows` being heads: a head of MLA.
    `repeats`: ranks may hold the same units, as those of k and v where there are fewer heads than ranks.
    """

    slot: str
    module: str
    rows: Length
    unit: Length | None = None
    repeats: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A linear layer [sum of rows, cols]: one module on disk, or several that are fused into `target`.

    A layer of several parts is also accepted fused on disk: one module `target` with the parts' rows in order, and is
    never expected otherwise where the parts' module is the target. `groups`: this module has so many groups of rows,
    each with an equal share of every part, in order; None for one.
    `unit` is how many columns stay together on one rank, where that is not said by `cols` being heads.
    `free`: some exports keep it in F32, whatever the rest of the model is in: a router.
    """

    target: str
    parts: tuple[Part, ...]
    cols: Length
    shard: Shard
    bias: Flag = NEVER
    unit: Length | None = None
    free: bool = False
    groups: Length | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """The routed experts of a layer: w13 [E, 2I, H], gate and up fused, and w2 [E, H, I].

    target      the module that holds them, e.g. "mlp.experts"
    count       how many there are
    spellings   (gate and up, down) of one expert, their modules named within "<target>.<number>."; the one that a
                checkpoint uses is found, the first is how the family is published
    published   how the family is published where it is not expert by expert
    activation  what stands between the two products: "silu" is silu(gate) * up
    limit       what both are held below: its key in the configuration, and the number where that has none
    stored      the module that they are stored under, where it is not the target: experts of several kinds that are
                counted together
    first       the number of the first one there
    """

    target: str
    count: Length
    spellings: tuple[tuple[Linear, Linear], ...]
    published: Stacked | None = None
    activation: str = "silu"
    limit: tuple[str, float] | None = None
    stored: str = ""
    first: Size = NOTHING

    def at(self, sizes: Sizes, expert: int) -> str:
        """The prefix of one expert's names within its layer: "mlp.experts.3."."""
        return f"{self.stored or self.target}.{sizes.of(self.first) + expert}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """A tensor that every rank holds whole: a norm's weight or its bias. `name` is the tensor's, within its prefix.

    free    some exports keep it in F32, whatever the rest of the model is in
    times   how many there are, where it is not one: rows of one tensor, or, where a component of `name` is "*",
            tensors of their own that are counted there
    when    whether the config has it
    """

    name: str
    length: Length
    times: Length | None = None
    when: Flag = ALWAYS
    free: bool = False

    def tensors(self, config: Mapping[str, Any], sizes: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name, within its prefix, and shape of each tensor that is there with this config."""
        if not self.when.of(config):
            return
        length = sizes.of(self.length)
        if self.times is None:
            yield self.name, (length,)
        elif COUNTED in self.name.split("."):
            for number in range(min(sizes.of(self.times), MAX_EXPERTS)):
                yield self.name.replace(COUNTED, str(number)), (length,)
        else:
            yield self.name, (sizes.of(self.times), length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The token embedding [vocab, hidden], split by rows of the vocabulary."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The output head [vocab, hidden]; absent on disk where `tied` says that it is the embedding."""

    module: str
    tied: Flag
    bias: Flag = NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Unused:
    """A tensor, or a weight and what belongs to it, that some exports carry and no model reads; `reason` says why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """A tensor, or everything under a dotted prefix, of another part of the model: kept as it is, on every rank."""

    prefix: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """A tensor of any shape that is no matrix of a linear layer: a convolution, an attention sink, a decay.

    split     segments of the first axis, each of which is split evenly over ranks; none: every rank holds it whole
    integer   it holds integers, not floats
    free      some exports keep it in F32, whatever the rest of the model is in
    """

    name: str
    shape: tuple[Length | int, ...]
    split: tuple[Length, ...] = ()
    integer: bool = False
    free: bool = False


Entry = Linear | Experts | Vector | Plain | Table | Head | Unused | Tower

Where = Callable[[Mapping[str, Any], int], bool]
"""Whether a layer, by its number, is of a kind, by the configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Only:
    """Entries that some layers have: those whose number `where` says yes to."""

    where: Where
    entries: tuple[Entry | Only, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arch:
    """A model family.

    layer       entries under "<layers>.<number>."
    root        entries beside the layers
    mtp         entries that layers for multi-token prediction have beside those of a layer; they follow the others
    num_mtp     how many of these layers there are; a checkpoint may leave all of them out
    predictor   layers for multi-token prediction that do not follow the others
    attention   the module that KV scales belong to, within a layer
    decoders    what the decoder may be called that is "model" in every name here: inside a multimodal model it is
                "model.language_model". The one in use is found
    prefixes    what may stand before every name, e.g. "" or "language_model."; the one in use is found
    text_config the key under which a multimodal config keeps the numbers of the language model
    defaults    numbers that transformers fills in where a config leaves them out, by their keys
    aliases     other names of keys: the family's own, or those of some versions of the publisher's or of transformers'
    detect      whether a checkpoint without a model_type is of this family, by its files
    config_file the file that has the family's numbers
    derived     numbers that follow from others, by the family's own rules; they replace what a config says
    cached      the layers whose attention has a KV cache, where others have a module of that name too
    nullable    keys of `defaults` whose null has a meaning of its own: as many KV heads as heads, an even share of the
                hidden size for a head
    """

    name: str
    model_types: tuple[str, ...]
    layer: tuple[Entry | Only, ...]
    root: tuple[Entry | Only, ...]
    mtp: tuple[Entry | Only, ...] = ()
    num_mtp: Size = NOTHING
    predictor: Predictor | None = None
    layers: str = "model.layers"
    decoders: tuple[str, ...] = ("model",)
    attention: str = "self_attn"
    prefixes: tuple[str, ...] = ("",)
    text_config: str | None = None
    defaults: Mapping[str, int] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    nullable: tuple[str, ...] = ()
    detect: Callable[[Index], bool] | None = None
    config_file: str = "config.json"
    derived: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    cached: Where | None = None

    def every(self) -> Iterator[Entry]:
        """Every entry that a checkpoint can have, whichever layers have it."""
        yield from _flat((*self.root, *self.layer, *self.mtp))
        if self.predictor is not None:
            yield from _flat((*self.predictor.root, *self.predictor.layer))

    def experts(self) -> Iterator[Experts]:
        """Every kind of experts that a layer can have."""
        yield from (entry for entry in self.every() if isinstance(entry, Experts))

    def config(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """The part of config.json that describes the language model, with the family's defaults."""
        inner = document.get(self.text_config) if self.text_config is not None else None
        described = inner if isinstance(inner, Mapping) else document
        said = {key: value for key, value in described.items() if value is not None or key in self.nullable}
        said |= {usual: said[other] for other, usual in self.aliases.items() if other in said and usual not in said}
        # transformers 4 reads this key of the language model, transformers 5 the outer one: tied is what either ties
        tied = {TIED: True} if document.get(TIED) is True else {}
        found = {**self.defaults, **said, **tied}
        return found if self.derived is None else {**found, **self.derived(found)}


def _flat(entries: tuple[Entry | Only, ...]) -> Iterator[Entry]:
    for entry in entries:
        if isinstance(entry, Only):
            yield from _flat(entry.entries)
        else:
            yield entry


def entries_of(entries: tuple[Entry | Only, ...], config: Mapping[str, Any], layer: int) -> Iterator[Entry]:
    """The entries that layer number `layer` has with this configuration."""
    for entry in entries:
        if not isinstance(entry, Only):
            yield entry
        elif entry.where(config, layer):
            yield from entries_of(entry.entries, config, layer)
