"""New weights over torch.distributed: one rank sends named tensors, the others receive chunks for `LoadedModel.reload`.

    updates.send(trainer.state(), src=0)                  # on the trainer: names as files have them, whole tensors
    model.reload(updates.receive(src=0))                  # on each rank of the engine

A chunk is three broadcasts: two lengths, a JSON header of names, dtypes and shapes, and the bytes of all its tensors.
Bytes, because not every backend has FP8. A chunk of no tensors ends the update, and one of negative length says that
the sender failed. Whoever stops receiving early goes on taking part until the end, so that no other rank waits for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist

from fp8load.errors import LoadError, Problem
from fp8load.runtime.dtypes import NAMES, as_bytes, describe, torch_dtype

MAX_CHUNK_NBYTES = 256 << 20
"""Bytes of a chunk by default; a tensor that is larger is a chunk by itself."""

ALIGNMENT = 16
"""Tensors begin at multiples of this within a chunk, so that they can be seen in their dtypes."""

_FAILED = -1


class _Entry(NamedTuple):
    """A tensor in a chunk's header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def send(
    named: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]],
    *,
    src: int,
    group: dist.ProcessGroup | None = None,
    device: torch.device | str = "cpu",
    max_nbytes: int = MAX_CHUNK_NBYTES,
) -> None:
    """Broadcast tensors from rank `src`, which calls this, in the order in which they come.

    `device` is where the group's backend wants its tensors ("cuda" for NCCL). A weight is best followed by its scales.
    At most one chunk is held at a time. What `named` raises is raised here, after the receivers were told. Raises
    `LoadError` FILL723 for a dtype that files do not have.
    """
    items = named.items() if isinstance(named, Mapping) else named
    try:
        for chunk in _chunks(items, max_nbytes):
            _send_chunk(chunk, src, group, torch.device(device))
    except BaseException:
        _lengths(_FAILED, 0, src, group, torch.device(device))
        raise
    _lengths(0, 0, src, group, torch.device(device))


def receive(
    *, src: int, group: dist.ProcessGroup | None = None, device: torch.device | str = "cpu"
) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """The chunks that rank `src` sends, as pairs of name and tensor on `device`. Each chunk is memory of its own.

    Raises `LoadError` FILL727 where the sender failed.
    """
    where = torch.device(device)
    goes_on = True
    try:
        while True:
            header_nbytes, nbytes = _lengths(0, 0, src, group, where)
            goes_on = header_nbytes > 0
            if header_nbytes == _FAILED:
                raise LoadError(Problem(
                    code="FILL727", message="the sender of an update failed", expected="all tensors, and then an end",
                    got=f"rank {src} broke off", hint="its own error says why; reload all of it again",
                ))  # fmt: skip
            if not goes_on:
                return
            yield _receive_chunk(header_nbytes, nbytes, src, group, where)
    finally:
        while goes_on:  # closed before the end: the others are still in the broadcasts
            header_nbytes, nbytes = _lengths(0, 0, src, group, where)
            goes_on = header_nbytes > 0
            if goes_on:
                _receive_chunk(header_nbytes, nbytes, src, group, where)


def _chunks(items: Iterable[tuple[str, torch.Tensor]], max_nbytes: int) -> Iterator[list[tuple[_Entry, torch.Tensor]]]:
    """Tensors in chunks of at most `max_nbytes`, or of one tensor."""
    chunk: list[tuple[_Entry, torch.Tensor]] = []
    at = 0
    for name, tensor in items:
        nbytes = tensor.numel() * tensor.element_size()
        if chunk and at + nbytes > max_nbytes:
            yield chunk
            chunk, at = [], 0
        if tensor.dtype not in NAMES:
            raise LoadError(Problem(code="FILL723", message="files have no such dtype", tensor=name,
                                    expected=", ".join(NAMES.values()), got=describe(tensor.dtype)))  # fmt: skip
        chunk.append((_Entry(name, describe(tensor.dtype), tuple(tensor.shape), at, at + nbytes), tensor))
        at = -(-(at + nbytes) // ALIGNMENT) * ALIGNMENT
    if chunk:
        yield chunk


def _send_chunk(
    chunk: Sequence[tuple[_Entry, torch.Tensor]], src: int, group: dist.ProcessGroup | None, device: torch.device
) -> None:
    header = torch.frombuffer(bytearray(json.dumps([entry for entry, _ in chunk]).encode()), dtype=torch.uint8)
    data = torch.empty(chunk[-1][0].end, dtype=torch.uint8, device=device)
    for entry, tensor in chunk:
        data[entry.begin : entry.end].copy_(as_bytes(tensor.detach().contiguous()).reshape(-1))
    _lengths(header.numel(), data.numel(), src, group, device)
    dist.broadcast(header.to(device), src, group=group)
    if data.numel():
        dist.broadcast(data, src, group=group)


def _receive_chunk(
    header_nbytes: int, nbytes: int, src: int, group: dist.ProcessGroup | None, device: torch.device
) -> list[tuple[str, torch.Tensor]]:
    header = torch.empty(header_nbytes, dtype=torch.uint8, device=device)
    data = torch.empty(nbytes, dtype=torch.uint8, device=device)
    dist.broadcast(header, src, group=group)
    if nbytes:
        dist.broadcast(data, src, group=group)
    entries = [_Entry(*entry) for entry in json.loads(bytes(header.cpu().tolist()))]
    dtypes = {name.value: torch_dtype(name) for name in NAMES.values()}
    return [
        (entry.name, data[entry.begin : entry.end].view(dtypes[entry.dtype]).reshape(entry.shape)) for entry in entries
    ]


def _lengths(
    header_nbytes: int, nbytes: int, src: int, group: dist.ProcessGroup | None, device: torch.device
) -> tuple[int, int]:
    """Broadcast two lengths: the sender's on every rank."""
    lengths = torch.tensor([header_nbytes, nbytes], dtype=torch.int64, device=device)
    dist.broadcast(lengths, src, group=group)
    first, second = lengths.tolist()
    return first, second
