"""A safetensors file written anew from another one: header first, then each tensor in pieces of bounded size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from fp8load.dtypes import nbytes_of
from fp8load.errors import NetworkError, Problem, UsageError
from fp8load.index.header import Header
from fp8load.index.index import TensorMeta
from fp8load.index.layout import Entry, encode_header, lay_out
from fp8load.source.base import Source
from fp8load.writing.actions import Add, Convert, Drop, Remake, Rename, SetMetadata, ShardAction

CHUNK = 8 << 20
"""Bytes in memory at once; a multiple of every element's size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A tensor of the new file: its bytes (None: those of the original), and what is done to them in turn."""

    entry: Entry
    meta: TensorMeta
    converts: tuple[Callable[[bytes], bytes], ...] = ()
    data: Callable[[], Iterable[bytes]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewShard:
    """What a file will be: its size, its tensors in their new places, and how to write it."""

    nbytes: int
    tensors: tuple[TensorMeta, ...]
    head: bytes
    parts: tuple[_Part, ...]

    def write(self, source: Source, path: Path) -> None:
        """Write the file and wait until the disk has it. Raises `SourceError` where the original ends too early."""
        with path.open("xb") as file:
            file.write(self.head)
            for part in self.parts:
                _write_part(source, part, file)
            synced(file)


def new_shard(file: str, header: Header, actions: Sequence[ShardAction]) -> NewShard:
    """The file that the actions make of one with this header."""
    metadata = dict(header.metadata)
    for action in actions:
        if isinstance(action, SetMetadata):
            metadata.pop(action.key, None)
            if action.value is not None:
                metadata[action.key] = action.value
    parts = tuple(_parts(header.tensors, actions))
    meta, tensors = lay_out(file, [part.entry for part in parts], metadata)
    if any(tensor.begin % max(tensor.dtype.bits // 8, 1) for tensor in tensors):  # large elements first, as writers do
        parts = tuple(sorted(parts, key=lambda part: -part.entry.dtype.bits))
        meta, tensors = lay_out(file, [part.entry for part in parts], metadata)
    head = encode_header(tensors, meta.header_nbytes, metadata)
    return NewShard(nbytes=meta.nbytes, tensors=tuple(tensors), head=head, parts=parts)


def _parts(tensors: Iterable[TensorMeta], actions: Sequence[ShardAction]) -> Iterator[_Part]:
    dropped = {action.meta.name for action in actions if isinstance(action, Drop)}
    names = {action.meta.name: action.to for action in actions if isinstance(action, Rename)}
    remade = {action.meta.name: action for action in actions if isinstance(action, Remake)}
    converted = _converted(actions)
    _refuse_two_ways(actions)
    for meta in tensors:
        if meta.name in dropped:
            continue
        new = remade.get(meta.name)
        given, shape, data = (meta.dtype, meta.shape, None) if new is None else (new.dtype, new.shape, new.data)
        changes = converted.get(meta.name, []) if given is meta.dtype else []
        entry = Entry(names.get(meta.name, meta.name), changes[-1].dtype if changes else given, shape)
        yield _Part(entry=entry, meta=meta, converts=tuple(change.convert for change in changes), data=data)
    for action in actions:
        if isinstance(action, Add):
            meta = action.meta
            yield _Part(entry=Entry(meta.name, meta.dtype, meta.shape), meta=meta, data=_given(action.data))


def _refuse_two_ways(actions: Sequence[ShardAction]) -> None:
    """Raise `UsageError` where a weight is made anew in two ways: each counts on the scale that it makes itself."""
    ways: dict[str, set[str]] = {}
    for action in actions:
        if isinstance(action, Remake):
            ways.setdefault(action.meta.name, set()).add(action.what)
    name = next((name for name, found in ways.items() if len(found) > 1), None)
    if name is not None:
        raise UsageError(Problem(
            code="USE023", message="two repairs make a tensor anew, each in its own way", tensor=name,
            expected="one of them", got=" and ".join(sorted(ways[name])),
            hint="name one, and repair the copy that it writes once more with the other",
        ))  # fmt: skip


def _given(data: bytes | Callable[[], Iterator[bytes]]) -> Callable[[], Iterator[bytes]]:
    return partial(iter, (data,)) if isinstance(data, bytes) else data


def _converted(actions: Sequence[ShardAction]) -> dict[str, list[Convert]]:
    """What is done to each tensor: all that keeps its dtype, then the last of what changes it. Every one expects the
    stored dtype, so two repairs of one scale are both done."""
    table: dict[str, list[Convert]] = {}
    for action in actions:
        if isinstance(action, Convert):
            table.setdefault(action.meta.name, []).append(action)
    return {name: _in_turn(found) for name, found in table.items()}


def _in_turn(found: list[Convert]) -> list[Convert]:
    keeping = [change for change in found if change.dtype is change.meta.dtype]
    return keeping + [change for change in found if change.dtype is not change.meta.dtype][-1:]


def _write_part(source: Source, part: _Part, file: BinaryIO) -> None:
    written = 0
    for data in pieces(source, part.meta) if part.data is None else part.data():
        for convert in part.converts:
            data = convert(data)  # noqa: PLW2901 - the same bytes, one step further
        written += file.write(data)
    wanted = nbytes_of(part.entry.dtype, part.entry.shape)
    if written != wanted:  # every tensor behind it would be read from the wrong place
        raise ValueError(f"{part.entry.name}: {written:,} bytes were made of it, and the header says {wanted:,}")


def pieces(source: Source, meta: TensorMeta) -> Iterator[bytes]:
    """A tensor's bytes as they lie in the file, `CHUNK` at a time."""
    for begin in range(meta.begin, meta.end, CHUNK):
        end = min(begin + CHUNK, meta.end)
        data = source.read(meta.file, begin, end)
        if len(data) != end - begin:
            raise NetworkError(Problem(code="SRC006", message="the file is shorter than its header said",
                                       tensor=meta.name, file=meta.file, expected=f"{end - begin} bytes",
                                       got=f"{len(data)} bytes"))  # fmt: skip
        yield data


def synced(file: BinaryIO) -> None:
    """Wait until the disk has what was written."""
    file.flush()
    os.fsync(file.fileno())
