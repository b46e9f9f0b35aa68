"""A safetensors file written anew from another one: header first, then each tensor in pieces of bounded size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from fp8load.dtypes import nbytes_of
from fp8load.errors import NetworkError, Problem
from fp8load.index.header import Header
from fp8load.index.index import TensorMeta
from fp8load.index.layout import Entry, encode_header, lay_out
from fp8load.source.base import Source
from fp8load.writing.actions import Add, Convert, Drop, Remake, Rename, SetMetadata, ShardAction
from fp8load.writing.together import in_turn

CHUNK = 8 << 20
"""Bytes in memory at once; a multiple of every element's size."""

_Data = Callable[[], Iterable[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A tensor of the new file: its bytes (None: those that lie in the original), and what is done to them in turn."""

    entry: Entry
    meta: TensorMeta
    converts: tuple[Callable[[bytes], bytes], ...] = ()
    data: _Data | None = None


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
    stored: list[tuple[TensorMeta, _Data | None]] = [(meta, None) for meta in tensors if meta.name not in dropped]
    added = [(action.meta, _given(action.data)) for action in actions if isinstance(action, Add)]
    for meta, data in (*stored, *added):
        new = remade.get(meta.name)
        changes = in_turn(converted.get(meta.name, ()), new)
        given, shape = (meta.dtype, meta.shape) if new is None else (new.dtype, new.shape)
        entry = Entry(names.get(meta.name, meta.name), changes[-1].dtype if changes else given, shape)
        yield _Part(entry=entry, meta=meta, converts=tuple(change.convert for change in changes),
                    data=data if new is None else new.data)  # fmt: skip


def _given(data: bytes | Callable[[], Iterator[bytes]]) -> _Data:
    return partial(iter, (data,)) if isinstance(data, bytes) else data


def _converted(actions: Sequence[ShardAction]) -> dict[str, list[Convert]]:
    table: dict[str, list[Convert]] = {}
    for action in actions:
        if isinstance(action, Convert):
            table.setdefault(action.meta.name, []).append(action)
    return table


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
