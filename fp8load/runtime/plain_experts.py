"""Experts as the unquantized model of their family is published: under its names, expert by expert or in one tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch

from fp8load.archs.base import Experts, Linear, Stacked
from fp8load.archs.model import Model, expert_entries, is_fused_on_disk, spelling
from fp8load.formats.lowered import Lowered, ModuleInfo


class Plain(NamedTuple):
    """One logical part of an expert, float32: weight [n, K] and bias [n]."""

    weight: torch.Tensor
    bias: torch.Tensor | None


Read = Callable[[ModuleInfo], Plain]


def expert_modules(model: Model, lowered: Lowered) -> frozenset[str]:
    """Every module on disk that is a part of a routed expert."""
    return frozenset(
        at + name
        for parent, entry in model.entries()
        if isinstance(entry, Experts)
        for linear, at in expert_entries(model, lowered.modules, parent, entry)
        for name in (linear.target, *(part.module for part in linear.parts))
    )


def plain_experts(model: Model, lowered: Lowered, read: Read) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, float32 tensor) of all routed experts. Memory: one tensor as it is published, and one expert."""
    for at, entry in model.entries():
        if isinstance(entry, Experts):
            stored, published = spelling(model, at, entry, lowered.modules), entry.spellings[0]
            interleaved = entry.published is not None and entry.published.interleaved
            for have, want in zip(stored, published, strict=True):
                parts = (
                    _parts(lowered, at + entry.at(model.sizes, expert), have, read, interleaved=interleaved)
                    for expert in range(model.sizes.of(entry.count))
                )
                yield from _published(model, entry, at, want, parts)


def _published(
    model: Model, entry: Experts, at: str, want: Linear, parts: Iterable[list[Plain]]
) -> Iterator[tuple[str, torch.Tensor]]:
    """One layer of all experts, from each expert's parts."""
    if entry.published is None:
        for expert, found in enumerate(parts):
            for part, plain in zip(want.parts, found, strict=True):
                yield f"{at}{entry.at(model.sizes, expert)}{part.module}.weight", plain.weight
                if plain.bias is not None:
                    yield f"{at}{entry.at(model.sizes, expert)}{part.module}.bias", plain.bias
        return
    if entry.published.apart:
        every = [*parts]
        for i, part in enumerate(want.parts):
            yield from _stacked(f"{at}{entry.target}.{part.module}", [found[i] for found in every], entry.published)
        return
    joined = [_joined(found, interleaved=entry.published.interleaved) for found in parts]
    yield from _stacked(f"{at}{entry.target}.{want.target}", joined, entry.published)


def _stacked(module: str, each: list[Plain], published: Stacked) -> Iterator[tuple[str, torch.Tensor]]:
    """One tensor of all experts, and their biases."""
    weights = torch.stack([plain.weight for plain in each])
    yield module + published.suffix, weights.mT.contiguous() if published.transposed else weights
    biases = [plain.bias for plain in each if plain.bias is not None]
    if biases:
        yield f"{module}_bias", torch.stack(biases)


def _parts(lowered: Lowered, at: str, have: Linear, read: Read, *, interleaved: bool) -> list[Plain]:
    """The parts of one expert's layer, as they are stored: apart, or one tensor."""
    if not is_fused_on_disk(have, at, lowered.modules):
        return [read(lowered.modules[at + part.module]) for part in have.parts]
    weight, bias = read(lowered.modules[at + have.target])
    number = len(have.parts)
    if interleaved:
        return [Plain(weight[i::number], None if bias is None else bias[i::number]) for i in range(number)]
    halves = weight.chunk(number)
    return [Plain(half, None if bias is None else bias.chunk(number)[i]) for i, half in enumerate(halves)]


def _joined(parts: list[Plain], *, interleaved: bool) -> Plain:
    join = _alternate if interleaved else torch.cat
    biases = [part.bias for part in parts if part.bias is not None]
    return Plain(join([part.weight for part in parts]), join(biases) if biases else None)


def _alternate(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(parts, dim=1).flatten(0, 1)
