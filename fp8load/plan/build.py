"""From schemes and a family to a layout for one rank: which parameters exist and which bytes fill them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import assert_never

from fp8load.archs.base import Dim, Entry, Experts, Head, Length, Linear, Plain, Table, Tower, Unused, Vector
from fp8load.archs.model import Model, find_tensor, is_fused_on_disk, spelling
from fp8load.boxes import Box, rows
from fp8load.errors import PlanError, Problem
from fp8load.formats.lowered import Lowered, ModuleInfo
from fp8load.index.index import TensorMeta
from fp8load.plan.builder import Builder
from fp8load.plan.experts import add_experts, expert_range
from fp8load.plan.linear import Rows, Target, add_layer, uneven
from fp8load.plan.plan import Layout, Rank, Skip
from fp8load.plan.shard import Shard, UnevenSplitError, even_span, vocab_span
from fp8load.scheme import Role


def build(model: Model | None, lowered: Lowered, rank: Rank, *, fuse: bool = True) -> Layout:
    """The layout for one rank. Raises `SplitError` for a layer that this rank count cannot split.

    `fuse=False`: parts that are stored by themselves stay layers of their own; experts are stacked all the same.
    Without a family (`model` None) every module is a layer of its own, and tensor parallelism is refused: how an
    unknown family splits is not a thing to guess.
    """
    builder = Builder(lowered, rank)
    if rank.ep_size != 1 and (model is None or not any(isinstance(entry, Experts) for _, entry in model.entries())):
        raise PlanError(Problem(code="PLAN004", message="expert parallelism needs a family with experts",
                                expected="ep_size=1", got=f"ep_size={rank.ep_size}"))  # fmt: skip
    if model is None:
        _generic(builder)
    else:
        for at, entry in model.entries():
            for one in (entry,) if fuse else _apart(entry, at, lowered.modules):
                _entry(builder, model, at, one)
    for (attention, role), meta in lowered.kv.items():
        builder.tensor(meta, name=f"{attention}.{role}", role=role)
    return builder.layout()


def _apart(entry: Entry, at: str, modules: Mapping[str, ModuleInfo]) -> Iterator[Entry]:
    """The entry, or a linear layer for each of its parts where these are stored by themselves."""
    if not isinstance(entry, Linear) or len(entry.parts) == 1 or is_fused_on_disk(entry, at, modules):
        yield entry
        return
    for part in entry.parts:
        yield replace(entry, target=part.module, parts=(part,))


def build_entry(model: Model, lowered: Lowered, at: str, entry: Entry, rank: Rank) -> None:
    """Build one layer and throw it away: only whether it splits is asked. Raises `SplitError`."""
    _entry(Builder(lowered, rank), model, at, entry)


def _entry(builder: Builder, model: Model, at: str, entry: Entry) -> None:
    match entry:
        case Linear():
            add_layer(builder, _target(model, at, entry, builder.lowered.modules))
        case Experts():
            _experts(builder, model, at, entry)
        case Vector():
            _vector(builder, model, at, entry)
        case Plain():
            _plain(builder, model, at, entry)
        case Table() | Head():
            _vocabulary(builder, model, at, entry)
        case Unused():
            _unused(builder, at, entry)
        case Tower():
            _tower(builder, entry)
        case _:
            assert_never(entry)


def _unused(builder: Builder, at: str, entry: Unused) -> None:
    """A tensor that nothing reads; with a module's weight goes what stands beside it."""
    found = find_tensor(builder.lowered, at + entry.name)
    if found is None:
        return
    info = builder.lowered.modules.get((at + entry.name).rpartition(".")[0])
    stored = (found,) if info is None else info.tensors.values()
    builder.skips += [Skip(meta.name, entry.reason) for meta in stored]


def _vocabulary(builder: Builder, model: Model, at: str, entry: Table | Head) -> None:
    modules, loose = builder.lowered.modules, builder.lowered.loose
    module = at + (entry.name.rpartition(".")[0] if isinstance(entry, Table) else entry.module)
    info = modules.get(module)
    if info is not None and isinstance(entry, Table) and info.scheme is None:
        _rows_of_tokens(builder, info.tensors[Role.WEIGHT])
    elif info is not None:
        only = (Rows(module.rpartition(".")[2], model.sizes.vocab_size),)
        add_layer(builder, Target(module, only, (info,), Shard.VOCAB))
    elif isinstance(entry, Table):
        raise AssertionError(f"{module} is absent, and nothing has refused it")
    elif f"{at}{entry.module}.bias" in loose:  # a tied head has a bias of its own
        _rows_of_tokens(builder, loose[f"{at}{entry.module}.bias"])


def _rows_of_tokens(builder: Builder, meta: TensorMeta) -> None:
    """A tensor with one row for each token."""
    span = vocab_span(meta.shape[0], builder.rank)
    builder.tensor(meta, name=meta.name, role=Role.WEIGHT, box=rows(meta.shape, span.begin, span.end))


def _vector(builder: Builder, model: Model, at: str, entry: Vector) -> None:
    for name, _ in entry.tensors(model.config, model.sizes):
        meta = find_tensor(builder.lowered, at + name)
        if meta is not None:  # what is absent, arch_problems has named
            builder.tensor(meta, name=meta.name, role=Role.WEIGHT)


def _tower(builder: Builder, entry: Tower) -> None:
    prefix = entry.prefix + "."
    for name, info in builder.lowered.modules.items():
        if f"{name}.".startswith(prefix):  # the tower itself may be a module: a single norm
            _one(builder, name, info)
    for name, meta in builder.lowered.loose.items():
        if f"{name}.".startswith(prefix):
            builder.tensor(meta, name=name, role=Role.WEIGHT)


def _generic(builder: Builder) -> None:
    if builder.rank.tp_size != 1:
        raise PlanError(Problem(
            code="PLAN002", message="the model's family is not known, so how it splits is not either",
            expected="tp_size=1", got=f"tp_size={builder.rank.tp_size}",
            hint="add the family (one file, docs/adding-a-family.md), or load it whole",
        ))  # fmt: skip
    for name, info in builder.lowered.modules.items():
        _one(builder, name, info)
    for name, meta in builder.lowered.loose.items():
        builder.tensor(meta, name=name, role=Role.WEIGHT)


def _one(builder: Builder, name: str, info: ModuleInfo) -> None:
    """A module by itself, whole on every rank."""
    weight = info.tensors[Role.WEIGHT]
    if info.scheme is not None:
        part = Rows(name.rpartition(".")[2], weight.shape[0])
        add_layer(builder, Target(name, (part,), (info,), Shard.REPLICATED))
        return
    for role in (Role.WEIGHT, Role.BIAS):
        if role in info.tensors:
            builder.tensor(info.tensors[role], name=info.tensors[role].name, role=Role.WEIGHT)


def _target(model: Model, at: str, entry: Linear, modules: Mapping[str, ModuleInfo]) -> Target:
    """A layer of the family as one to be made from the modules that are stored."""
    return _stored(_blank(model, at + entry.target, entry), at, entry, modules)


def _blank(model: Model, name: str, entry: Linear) -> Target:
    """A layer of the family by its numbers, before it is known how it is stored."""
    parts = tuple(
        Rows(
            part.slot,
            model.sizes.of(part.rows),
            _unit(model, part.unit, part.rows),
            part.repeats or part.rows is Dim.KV,
        )
        for part in entry.parts
    )
    groups = 1 if entry.groups is None else model.sizes.of(entry.groups)
    return Target(name, parts, (), entry.shard, _unit(model, entry.unit, entry.cols), groups)


def _stored(blank: Target, at: str, entry: Linear, modules: Mapping[str, ModuleInfo]) -> Target:
    """A layer with the modules that hold it."""
    if is_fused_on_disk(entry, at, modules):
        return blank._replace(infos=(modules[at + entry.target],))
    return blank._replace(infos=tuple([modules[at + part.module] for part in entry.parts]), groups=1)


def _unit(model: Model, unit: Length | None, size: Length) -> int:
    """How many rows or columns stay together: what the family says, a head where heads are counted, else one."""
    if unit is not None:
        return model.sizes.of(unit)
    return model.sizes.head_dim if size in (Dim.Q, Dim.KV) else 1


def _activation(model: Model, entry: Experts) -> str:
    """What stands between the products of experts, with its limit: "clamped-swiglu:7.0"."""
    if entry.limit is None:
        return entry.activation
    key, usual = entry.limit
    said = model.config.get(key)
    return f"{entry.activation}:{float(said) if isinstance(said, int | float) else usual}"


def _experts(builder: Builder, model: Model, at: str, entry: Experts) -> None:
    modules, module = builder.lowered.modules, at + entry.target
    count = model.sizes.of(entry.count)
    numbers = expert_range(count, builder.rank, module)
    interleaved = entry.published is not None and entry.published.interleaved
    for name, stored in zip(("w13", "w2"), spelling(model, at, entry, modules), strict=True):
        linear = replace(stored, groups=stored.parts[0].rows) if interleaved else stored
        blank = _blank(model, f"{module}.{name}", linear)
        targets = [_stored(blank, at + entry.at(model.sizes, number), linear, modules) for number in range(count)]
        add_experts(builder, targets, numbers, _activation(model, entry))


def _plain(builder: Builder, model: Model, at: str, entry: Plain) -> None:
    meta = find_tensor(builder.lowered, at + entry.name)
    if meta is None:
        return  # what is absent, arch_problems has named
    if not entry.split:
        builder.tensor(meta, name=meta.name, role=Role.WEIGHT)
        return
    boxes: list[Box] = []
    begin = 0
    for segment in entry.split:
        size = model.sizes.of(segment)
        try:
            span = even_span(size, builder.rank)
        except UnevenSplitError as error:
            raise uneven(meta, builder.rank, error) from error
        boxes.append(rows(meta.shape, begin + span.begin, begin + span.end))
        begin += size
    builder.segments(meta, boxes)
