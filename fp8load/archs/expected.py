"""What a checkpoint lacks, has in another shape, or has too much, by the list of tensors that its family has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple, assert_never

from fp8load.archs.base import Experts, Head, Linear, Part, Plain, Stacked, Table, Tower, Unused, Vector
from fp8load.archs.cache_scales import cache_scales
from fp8load.archs.model import (
    Model,
    expert_entries,
    find_tensor,
    is_fused_on_disk,
    plain_shape,
    spelling,
)
from fp8load.archs.numbers import MAX_EXPERTS, MAX_LAYERS
from fp8load.errors import Problem
from fp8load.formats.contradictions import contradiction
from fp8load.formats.lowered import Lowered
from fp8load.index.index import TensorMeta
from fp8load.scheme import Role


def arch_problems(model: Model, lowered: Lowered) -> Iterator[Problem]:
    """Tensors that the family needs and the checkpoint lacks, tensors of another shape, and tensors of no use."""
    known: set[str] = set()
    towers: list[str] = []
    if model.sizes.num_layers > MAX_LAYERS:
        yield Problem(
            code="F8L109",
            message="config.json asks for more layers than any model has",
            file="config.json",
            expected=f"num_hidden_layers of at most {MAX_LAYERS}",
            got=f"{model.sizes.num_layers:,}",
            hint="correct num_hidden_layers",
        )
    for at, entry in model.entries():
        match entry:
            case Linear() | Experts() | Head():
                yield from _layer(model, lowered, at, entry, known)
            case Vector() | Plain() | Table():
                yield from _tensors(model, lowered, at, entry, known)
            case Unused():
                known.add(at + entry.name)
            case Tower():
                towers.append(entry.prefix + ".")
            case _:
                assert_never(entry)
    yield from _strangers(model, lowered, known, tuple(towers))
    yield from cache_scales(model, lowered)


def _layer(
    model: Model, lowered: Lowered, at: str, entry: Linear | Experts | Head, known: set[str]
) -> Iterator[Problem]:
    match entry:
        case Linear():
            yield from _linear(model, lowered, at, entry, known)
        case Experts():
            yield from _experts(model, lowered, at, entry, known)
        case Head():
            yield from _head(model, lowered, at, entry, known)
        case _:
            assert_never(entry)


def _experts(model: Model, lowered: Lowered, at: str, entry: Experts, known: set[str]) -> Iterator[Problem]:
    """Experts as they are stored; a stack of which no layer has anything is missing under its published name."""
    pair = spelling(model, at, entry, lowered.modules)
    stored = {linear: linear for linear in pair}
    if entry.published is not None:
        for linear in pair:
            units = [(part,) for part in linear.parts] if entry.published.apart else [linear.parts]
            lost = [unit for unit in units if not _is_anywhere(model, lowered, entry, linear, unit)]
            yield from (_lost_stack(model, at, entry, linear, unit) for unit in lost)
            kept = tuple(part for unit in units if unit not in lost for part in unit)
            stored[linear] = replace(linear, parts=kept)
    numbered = {linear.target: _numbered(model, stored[linear]) for linear in pair}
    for member, module in expert_entries(model, lowered.modules, at, entry):
        if numbered[member.target].entry.parts:
            yield from _members(model, lowered, module, numbered[member.target], known)


def _lost_stack(model: Model, at: str, entry: Experts, linear: Linear, parts: tuple[Part, ...]) -> Problem:
    """The tensor of all experts that would hold these parts of each."""
    published = entry.published or Stacked()
    count, cols = model.sizes.of(entry.count), model.sizes.of(linear.cols)
    num_rows = sum(model.sizes.of(part.rows) for part in parts)
    module = parts[0].module if published.apart else linear.target
    shape = (count, cols, num_rows) if published.transposed else (count, num_rows, cols)
    return _absent(f"{at}{entry.target}.{module}{published.suffix}", shape)


def _is_anywhere(model: Model, lowered: Lowered, entry: Experts, linear: Linear, parts: tuple[Part, ...]) -> bool:
    """Whether some layer has these parts of some expert, or one of them."""
    names = (linear.target, *(part.module for part in parts))
    return any(
        f"{model.at(layer)}{entry.at(model.sizes, expert)}{name}" in lowered.modules
        for expert in range(min(model.sizes.of(entry.count), MAX_EXPERTS))
        for layer in range(model.num_layers)
        for name in names
    )


def _tensors(
    model: Model, lowered: Lowered, at: str, entry: Vector | Plain | Table, known: set[str]
) -> Iterator[Problem]:
    match entry:
        case Vector():
            for name, shape in entry.tensors(model.config, model.sizes):
                yield from _vector(lowered, at + name, shape, known)
        case Plain():
            yield from _plain(lowered, at + entry.name, plain_shape(model, entry), known, integer=entry.integer)
        case Table():
            shape = (model.sizes.vocab_size, model.sizes.hidden_size)
            yield from _tensor(lowered, at + entry.name, shape, known)
        case _:
            assert_never(entry)


def _absent(name: str, shape: tuple[int, ...]) -> Problem:
    return Problem(
        code="F8L109", message="a tensor that the configuration calls for is not there", tensor=name,
        expected=f"{list(shape)}, by the configured sizes", got="no such tensor",
        hint="the export is incomplete, or config.json belongs to another model",
    )  # fmt: skip


def _shaped(meta: TensorMeta, shape: tuple[int, ...]) -> Iterator[Problem]:
    if meta.shape == shape:
        return
    if 0 in shape:
        yield Problem(
            code="F8L109", message="config.json does not give the sizes of a tensor", tensor=meta.name, file=meta.file,
            expected=f"{list(shape)}, with the numbers that are missing", got=str(list(meta.shape)),
            hint="a size is missing in config.json, or is no number: hidden_size, intermediate_size, vocab_size?",
        )  # fmt: skip
        return
    transposed = len(shape) == 2 and meta.shape == shape[::-1]
    yield Problem(
        code="F8L506" if transposed else "F8L109",
        message="a weight is stored transposed" if transposed else "a tensor's shape is not what the config says",
        tensor=meta.name, file=meta.file, expected=str(list(shape)), got=str(list(meta.shape)),
        hint="save it before an engine has prepared it for its kernels" if transposed
        else "config.json belongs to another model, or the tensor was cut, padded or joined",
    )  # fmt: skip


def _tensor(
    lowered: Lowered, name: str, shape: tuple[int, ...], known: set[str], *, of_linear: bool = False
) -> Iterator[Problem]:
    """A tensor that the family has. `of_linear`: a linear layer's, whose name on disk may be another."""
    known.add(name)
    meta = find_tensor(lowered, name)
    if meta is None:
        yield _absent(_called(lowered, name) if of_linear else name, shape)
    else:
        known.add(meta.name)  # packed weights have another name on disk
        if not (of_linear and _is_not_understood(lowered, name, meta)):
            yield from _shaped(meta, shape)


def _is_not_understood(lowered: Lowered, name: str, meta: TensorMeta) -> bool:
    """Whether a weight is packed in a way that lowering did not understand, and said so: its shape is that of bytes."""
    info = lowered.modules.get(name.rpartition(".")[0])
    in_bytes = not meta.dtype.is_wide_float and not meta.dtype.is_fp8
    return info is not None and info.scheme is None and in_bytes and len(meta.shape) >= 2


def _called(lowered: Lowered, name: str) -> str:
    """What a linear layer's weight or bias would be called on disk: packed weights and stacks have other names."""
    module, _, last = name.rpartition(".")
    stacked = lowered.stacked_name(module, Role(last))
    return stacked or (lowered.weight(module) if last == Role.WEIGHT else name)


def _vector(
    lowered: Lowered, name: str, shape: tuple[int, ...], known: set[str], *, of_linear: bool = False
) -> Iterator[Problem]:
    """A norm or a bias: it has no scale, so nothing narrower than 16 bits can be one."""
    yield from _tensor(lowered, name, shape, known, of_linear=of_linear)
    meta = find_tensor(lowered, name)
    if meta is not None and not meta.dtype.is_wide_float:
        yield contradiction("F8L105", meta, "a float of 16 bits or more: norms and biases have no scale",
                            str(meta.dtype))  # fmt: skip


def _plain(lowered: Lowered, name: str, shape: tuple[int, ...], known: set[str], *, integer: bool) -> Iterator[Problem]:
    """A tensor that is no linear layer's: it has no scale."""
    if not integer:
        yield from _vector(lowered, name, shape, known)
        return
    yield from _tensor(lowered, name, shape, known)
    meta = find_tensor(lowered, name)
    if meta is not None and not meta.dtype.name.startswith(("I", "U")):
        yield contradiction("F8L105", meta, "integers", str(meta.dtype))


class _Numbered(NamedTuple):
    """A linear layer with its numbers: rows of each part, columns, and whether there is a bias."""

    entry: Linear
    rows: list[int]
    cols: int
    has_bias: bool


def _numbered(model: Model, entry: Linear) -> _Numbered:
    rows = [model.sizes.of(part.rows) for part in entry.parts]
    return _Numbered(entry, rows, model.sizes.of(entry.cols), entry.bias.of(model.config))


def _linear(model: Model, lowered: Lowered, at: str, entry: Linear, known: set[str]) -> Iterator[Problem]:
    yield from _members(model, lowered, at, _numbered(model, entry), known)


def _members(model: Model, lowered: Lowered, at: str, layer: _Numbered, known: set[str]) -> Iterator[Problem]:
    """The modules on disk that a linear layer is made from."""
    entry, rows, cols, has_bias = layer
    if is_fused_on_disk(entry, at, lowered.modules) or _lost_fused(model, lowered, at, entry):
        members = [(at + entry.target, sum(rows))]
    else:
        members = [(at + part.module, num_rows) for part, num_rows in zip(entry.parts, rows, strict=True)]
    for module, num_rows in members:
        yield from _tensor(lowered, f"{module}.weight", (num_rows, cols), known, of_linear=True)
        if has_bias:
            yield from _vector(lowered, f"{module}.bias", (num_rows,), known, of_linear=True)


def _lost_fused(model: Model, lowered: Lowered, at: str, entry: Linear) -> bool:
    """Whether a layer of which nothing is stored would be fused on disk: it always is, or it is so in other layers."""
    if not entry.parts[0].module:
        return True
    if len(entry.parts) == 1 or any(at + part.module in lowered.modules for part in entry.parts):
        return False
    if entry.parts[0].module == entry.target or lowered.are_stacked(at.rstrip(".").rpartition(".")[0]):
        return True
    starts = [start for start in model.starts() if at.startswith(start)]
    return any(start + at[len(here) :] + entry.target in lowered.modules for here in starts for start in model.starts())


def _head(model: Model, lowered: Lowered, at: str, entry: Head, known: set[str]) -> Iterator[Problem]:
    name = f"{at}{entry.module}.weight"
    if not entry.tied.of(model.config) or find_tensor(lowered, name) is not None:
        yield from _tensor(lowered, name, (model.sizes.vocab_size, model.sizes.hidden_size), known)
    if entry.bias.of(model.config):
        yield from _vector(lowered, f"{at}{entry.module}.bias", (model.sizes.vocab_size,), known)


def _strangers(model: Model, lowered: Lowered, known: set[str], towers: tuple[str, ...]) -> Iterator[Problem]:
    """Tensors that the family does not have. Scales, and what stands beside a quantized weight, lowering has judged."""
    mains = (
        meta
        for info in lowered.modules.values()
        for role, meta in info.tensors.items()
        if role in (Role.WEIGHT, Role.BIAS)
    )
    quantized = {name for name, info in lowered.modules.items() if info.scheme is not None}
    said = {problem.tensor for problem in lowered.problems if problem.code == "F8L203"}
    loose = (
        meta for name, meta in lowered.loose.items() if name.rpartition(".")[0] not in quantized and name not in said
    )
    for meta in (*mains, *loose):
        if meta.name not in known and not (towers and f"{meta.name}.".startswith(towers)):
            yield Problem(
                code="F8L109", message=f"a tensor is no part of a {model.arch.name} with this configuration",
                tensor=meta.name, file=meta.file, expected=f"what num_hidden_layers {model.sizes.num_layers} calls for",
                got=f"{meta.name} {meta}", hint="a leftover, or config.json belongs to another model",
            )  # fmt: skip
