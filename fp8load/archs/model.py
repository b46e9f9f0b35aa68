"""A family with a checkpoint's numbers: every layer and tensor by its full name, and where each is stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, assert_never

from fp8load.archs.base import (
    ALWAYS,
    Arch,
    Entry,
    Experts,
    Head,
    Linear,
    Plain,
    Sizes,
    Table,
    Tower,
    Unused,
    Vector,
    entries_of,
    sizes,
)
from fp8load.archs.find import find_prefix, in_decoder, is_headless
from fp8load.archs.numbers import MAX_EXPERTS, MAX_LAYERS
from fp8load.formats.lowered import Lowered, ModuleInfo
from fp8load.index.index import TensorMeta
from fp8load.scheme import Role

CLASSIFIERS = tuple(Tower(prefix=name, reason="a classifier") for name in ("score", "classifier", "v_head"))
"""What a model may have in the head's place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A family with a checkpoint's numbers: what plan and checks iterate over.

    `entries` pairs each entry with the prefix of its names ("model.layers.3." or ""); `mtp` are the numbers of the
    layers for multi-token prediction that are stored, and `predicted` of those under a name of their own.
    `decoder` is what the decoder is called, "model" or "model.language_model"; `headless`: an output head that is not
    stored is none that the model has.
    """

    arch: Arch
    config: Mapping[str, Any]
    sizes: Sizes
    prefix: str
    decoder: str
    mtp: tuple[int, ...] = ()
    predicted: range = range(0)
    headless: bool = False

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """Entries of the root, then layer by layer, layers for multi-token prediction last."""
        for entry in (*entries_of(self.arch.root, self.config, 0), *(CLASSIFIERS if self.headless else ())):
            if self.headless and isinstance(entry, Head):
                continue
            yield ("" if isinstance(entry, Tower) else self.prefix), _in_decoder(entry, self.decoder)
        for layer in range(self.num_layers):
            for entry in entries_of(self.arch.layer, self.config, layer):
                yield self.at(layer), entry
        for layer in self.mtp:
            for entry in entries_of((*self.arch.layer, *self.arch.mtp), self.config, layer):
                yield self.at(layer), entry
        predictor = self.arch.predictor
        if predictor is not None and self.predicted:
            yield from ((self.prefix, entry) for entry in predictor.root)
            for number in self.predicted:
                for entry in entries_of(predictor.layer, self.config, number):
                    yield f"{self.prefix}{predictor.layers}.{number}.", entry

    @property
    def layers(self) -> str:
        """What stands before a layer's number, the prefix aside: "model.layers"."""
        return in_decoder(self.arch.layers, self.decoder)

    @property
    def num_layers(self) -> int:
        """How many layers there are, those for multi-token prediction aside."""
        return min(self.sizes.num_layers, MAX_LAYERS)

    def at(self, layer: int) -> str:
        """The prefix of a layer's names."""
        return f"{self.prefix}{self.layers}.{layer}."

    def starts(self) -> Iterator[str]:
        """The prefix of every layer's names, those for multi-token prediction too."""
        yield from (self.at(layer) for layer in (*range(self.num_layers), *self.mtp))
        if self.arch.predictor is not None:
            yield from (f"{self.prefix}{self.arch.predictor.layers}.{number}." for number in self.predicted)

    def attentions(self) -> Iterator[str]:
        """The attention module of each layer, which KV scales belong to; layers without attention have none."""
        cached = self.arch.cached
        for layer in range(self.num_layers):
            held = entries_of(self.arch.layer, self.config, layer)
            if (cached is None or cached(self.config, layer)) and any(
                isinstance(entry, Linear) and entry.target.startswith(f"{self.arch.attention}.") for entry in held
            ):
                yield self.at(layer) + self.arch.attention


def stacks_of(arch: Arch, document: Mapping[str, Any]) -> Mapping[str, tuple[int, int]]:
    """The last two components of modules that hold all experts, "experts.gate_up_proj", and the shape of one expert."""
    numbers = sizes(arch.config(document))
    found: dict[str, tuple[int, int]] = {}
    for entry in arch.experts():
        for linear in entry.spellings[0]:
            rows = {part.module: numbers.of(part.rows) for part in linear.parts}
            rows = {linear.target: sum(rows.values()), **rows}
            holder, cols = entry.target.rpartition(".")[2], numbers.of(linear.cols)
            found |= {f"{holder}.{name}": (size, cols) for name, size in rows.items()}
    return found


def model_of(arch: Arch, document: Mapping[str, Any], lowered: Lowered) -> Model:
    """The family with the numbers of config.json, under the prefix that the names show."""
    config = arch.config(document)
    prefix, decoder = find_prefix(arch, lowered.modules)
    model = Model(arch=arch, config=config, sizes=sizes(config), prefix=prefix, decoder=decoder)
    extra = range(model.num_layers, model.num_layers + min(arch.num_mtp.of(config), MAX_LAYERS))
    starts = tuple(model.at(layer) for layer in extra)
    stored = {name[len(prefix) :].split(".")[model.layers.count(".") + 1]
              for name in (*lowered.modules, *lowered.loose) if starts and name.startswith(starts)}  # fmt: skip
    headless = is_headless(document, decoder) and not any(
        isinstance(entry, Head) and prefix + entry.module in lowered.modules for entry in arch.every()
    )
    return replace(
        model,
        headless=headless,
        mtp=tuple(layer for layer in extra if str(layer) in stored),
        predicted=_predicted(model, lowered),
    )


def _predicted(model: Model, lowered: Lowered) -> range:
    """The layers for multi-token prediction under a name of their own: all, or none where nothing is stored."""
    predictor = model.arch.predictor
    if predictor is None or not predictor.when.of(model.config):
        return range(0)
    start = f"{model.prefix}{predictor.within}."
    if not any(name.startswith(start) for name in (*lowered.modules, *lowered.loose)):
        return range(0)
    return range(min(predictor.count.of(model.config), MAX_LAYERS))


def _in_decoder(entry: Entry, decoder: str) -> Entry:
    """An entry of the root under the name that it has in this checkpoint."""
    match entry:
        case Vector() | Plain() | Table() | Unused():
            return replace(entry, name=in_decoder(entry.name, decoder))
        case Linear():
            parts = tuple(replace(part, module=in_decoder(part.module, decoder)) for part in entry.parts)
            return replace(entry, target=in_decoder(entry.target, decoder), parts=parts)
        case Tower() | Experts() | Head():
            return entry
        case _:
            assert_never(entry)


def other_dtypes(arch: Arch) -> frozenset[str]:
    """Tensors, within their layer, and prefixes of tensors that may be of another float dtype than the rest."""
    found: set[str] = set()
    for entry in arch.every():
        match entry:
            case Linear(free=True):
                found.add(f"{entry.target}.weight")
            case Vector(free=True) | Plain(free=True) | Unused():
                found.add(entry.name)
            case Tower():
                found.add(f"{entry.prefix}.")
            case _:
                pass
    return frozenset(found)


def heads_of(arch: Arch) -> frozenset[str]:
    """Weights of the output head, within the model; not what prediction layers repeat of it and of the embedding."""
    heads = (entry for entry in arch.every() if isinstance(entry, Head) and entry.tied != ALWAYS)
    return frozenset(f"{entry.module}.weight" for entry in heads)


def is_fused_on_disk(entry: Linear, at: str, modules: Mapping[str, ModuleInfo]) -> bool:
    """Whether a layer of several parts is one module on disk."""
    return len(entry.parts) > 1 and at + entry.target in modules


def plain_shape(model: Model, entry: Plain) -> tuple[int, ...]:
    """The shape of a tensor that is no linear layer's, in numbers."""
    return tuple(size if isinstance(size, int) else model.sizes.of(size) for size in entry.shape)


def spelling(model: Model, at: str, entry: Experts, modules: Mapping[str, ModuleInfo]) -> tuple[Linear, Linear]:
    """The names that a layer's experts have on disk; those of the published model where nothing is stored."""
    if len(entry.spellings) > 1:
        for pair in entry.spellings:
            names = {name for linear in pair for name in (linear.target, *(part.module for part in linear.parts))}
            if any(f"{at}{entry.at(model.sizes, 0)}{name}" in modules for name in names):
                return pair
    return entry.spellings[0]


def expert_entries(
    model: Model, modules: Mapping[str, ModuleInfo], at: str, entry: Experts
) -> Iterator[tuple[Linear, str]]:
    """The linear layers of each expert of a layer, gate and up first, with the prefix of their names."""
    pair = spelling(model, at, entry, modules)
    for expert in range(min(model.sizes.of(entry.count), MAX_EXPERTS)):
        for linear in pair:
            yield linear, at + entry.at(model.sizes, expert)


def find_tensor(lowered: Lowered, name: str) -> TensorMeta | None:
    """The stored tensor that is a family's `name`: a module's weight or bias, or a tensor of no module."""
    base, _, last = name.rpartition(".")
    info = lowered.modules.get(base)
    if info is not None and last in (Role.WEIGHT, Role.BIAS):
        return info.tensors.get(Role(last))
    return lowered.loose.get(name)
