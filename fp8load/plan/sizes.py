"""Which tensor-parallel sizes a checkpoint can be split over, and what refuses the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import assert_never

from fp8load.archs.base import Experts, Head, Linear, Plain
from fp8load.archs.model import Model, find_tensor, spelling
from fp8load.errors import Problem
from fp8load.formats.lowered import Lowered
from fp8load.plan.build import build_entry
from fp8load.plan.linear import SplitError
from fp8load.plan.plan import Rank
from fp8load.scheme import Role

CANDIDATES = tuple(range(1, 65))
"""Sizes that are tried when a user asks which work: one node up to eight nodes of eight."""


def refusals(model: Model, lowered: Lowered, tp_size: int) -> Iterator[Problem]:
    """One problem for each layer that `tp_size` cannot split.

    The first, second and last rank are tried: the first cut and the last piece are where a split fails. Whole, only
    what lies in groups of rows on disk may refuse.
    """
    verdicts: dict[tuple[object, ...], Problem | None] = {}
    for at, entry in _split(model, lowered):
        if tp_size == 1 and not (isinstance(entry, Linear) and entry.groups is not None):
            continue
        key = _key(lowered, at, entry)
        if key not in verdicts:
            verdicts[key] = _try(model, lowered, at, entry, tp_size)
        problem = verdicts[key]
        if problem is not None:
            # Equal layers share the verdict; each is reported under its own name.
            yield replace(problem, module=at + target_of(entry), tensor=first_tensor(lowered, at, entry))


def _split(model: Model, lowered: Lowered) -> Iterator[tuple[str, Linear | Head | Plain]]:
    """Every entry that is split over ranks; of experts, which are alike, the first one's."""
    for at, entry in model.entries():
        if isinstance(entry, Experts):
            first = at + entry.at(model.sizes, 0)
            yield from ((first, linear) for linear in spelling(model, at, entry, lowered.modules))
        elif isinstance(entry, Linear | Head) or (isinstance(entry, Plain) and entry.split):
            yield at, entry


def legal_sizes(model: Model, lowered: Lowered, candidates: Iterable[int] = CANDIDATES) -> list[int]:
    """The sizes that split every layer."""
    return [size for size in candidates if next(refusals(model, lowered, size), None) is None]


def target_of(entry: Linear | Head | Plain) -> str:
    """The entry's fused name within its layer."""
    match entry:
        case Linear():
            return entry.target
        case Head():
            return entry.module
        case Plain():
            return entry.name
        case _:
            assert_never(entry)


def first_tensor(lowered: Lowered, at: str, entry: Linear | Head | Plain) -> str:
    """A weight on disk that belongs to the layer, for messages."""
    if isinstance(entry, Plain):
        meta = find_tensor(lowered, at + entry.name)
        return "" if meta is None else meta.name
    for name in [entry.parts[0].module, entry.target] if isinstance(entry, Linear) else [entry.module]:
        info = lowered.modules.get(at + name)
        if info is not None:
            return info.tensors[Role.WEIGHT].name
    return ""


def _key(lowered: Lowered, at: str, entry: Linear | Head | Plain) -> tuple[object, ...]:
    """What decides whether a layer splits: its entry, and shape and scheme of its members."""
    if isinstance(entry, Plain):
        meta = find_tensor(lowered, at + entry.name)
        return (entry.name, meta and meta.shape)
    names = [part.module for part in entry.parts] + [entry.target] if isinstance(entry, Linear) else [entry.module]
    infos = [lowered.modules.get(at + name) for name in names]
    members = tuple((info.tensors[Role.WEIGHT].shape, info.scheme) if info else None for info in infos)
    return (target_of(entry), members)


def _try(model: Model, lowered: Lowered, at: str, entry: Linear | Head | Plain, tp_size: int) -> Problem | None:
    for tp_rank in sorted({0, 1, tp_size - 1} & {*range(tp_size)}):
        try:
            build_entry(model, lowered, at, entry, Rank(tp_rank=tp_rank, tp_size=tp_size))
        except SplitError as error:
            return error.problem
    return None
