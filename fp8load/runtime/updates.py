"""New weights over torch.distributed: one rank sends named tensors, the others receive chunks for `LoadedModel.reload`.

    updates.send(trainer.state(), src=0)                  # on the trainer: names as files have them, whole tensors
    model.reload(updates.receive(src=0))                  # on each rank of the engine

A chunk is three broadcasts: two lengths, a JSON header of names, dtypes and shapes, and the bytes of all its tensors.
Bytes, because not every backend has FP8. A chunk of no tensors ends the update, and one of negative length says that
the sender failed. Whoever stops receiving early goes on taking part until the end, so that no other rank waits for it.
After the end every rank says in one line whether it has the update (an all-gather), so the sender knows who refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self

import torch
import torch.distributed as dist

from fp8load.errors import Fp8LoadError, LoadError, Problem
from fp8load.runtime.dtypes import NAMES, as_bytes, describe, torch_dtype

MAX_CHUNK_NBYTES = 256 << 20
"""Bytes of a chunk by default; a tensor that is larger is a chunk by itself."""

ALIGNMENT = 16
"""Tensors begin at multiples of this within a chunk, so that they can be seen in their dtypes."""

ANSWER_NBYTES = 1024
"""What a receiver says in the end, at most."""

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
    `LoadError` FILL723 for a dtype that files do not have, and FILL734 where receivers refused: each by its rank, with
    the first line of its error. That is known after everything was sent, since the others take it all the same.
    """
    items = named.items() if isinstance(named, Mapping) else named
    try:
        for chunk in _chunks(items, max_nbytes):
            _send_chunk(chunk, src, group, torch.device(device))
    except BaseException:
        _lengths(_FAILED, 0, src, group, torch.device(device))
        raise
    _lengths(0, 0, src, group, torch.device(device))
    _refuse(_answers("", group, torch.device(device)), group)


def receive(*, src: int, group: dist.ProcessGroup | None = None, device: torch.device | str = "cpu") -> Received:
    """The chunks that rank `src` sends, as pairs of name and tensor on `device`. Each chunk is memory of its own.

    `LoadedModel.reload` takes what this returns. What stands between them goes into a `with` block of it, so that the
    sender hears why an update was refused:

        with updates.receive(src=0) as chunks:
            model.reload(renamed(chunk) for chunk in chunks)

    Iterating raises `LoadError` FILL727 where the sender failed.
    """
    return Received(src, group, torch.device(device))


class Received:
    """An update on its way in: iterate over it once. At its end the sender is told how it went, also why not.

    In a `with` block its end is that of the block, and what the block raises is the answer. Else it is that of the
    iteration: a consumer that took everything is content, and one that stops early has refused.
    """

    def __init__(self, src: int, group: dist.ProcessGroup | None, device: torch.device) -> None:
        self._src, self._group, self._device = src, group, device
        self._is_in_block = False
        self._goes_on = self._awaits_answer = True

    def __enter__(self) -> Self:
        self._is_in_block = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end("" if error is None else _said(error))

    def __iter__(self) -> Iterator[list[tuple[str, torch.Tensor]]]:
        answer = "it stopped receiving"
        try:
            while chunk := self._next():
                yield chunk
            answer = ""
        finally:
            if not self._is_in_block:
                self._end(answer)

    def _next(self) -> list[tuple[str, torch.Tensor]] | None:
        """The next chunk; None after the last. Raises `LoadError` FILL727 where the sender failed.

        What fails within a chunk (memory for it, the network) leaves this rank out of step. It takes part in nothing
        more then, because its broadcasts would meet others' of another kind: torch.distributed tells the others.
        """
        if not self._goes_on:
            return None
        self._goes_on = self._awaits_answer = False
        header_nbytes, nbytes = _lengths(0, 0, self._src, self._group, self._device)
        if header_nbytes == _FAILED:
            raise LoadError(Problem(
                code="FILL727", message="the sender of an update failed", expected="all tensors, and then an end",
                got=f"rank {self._src} broke off", hint="its own error says why; reload all of it again",
            ))  # fmt: skip
        chunk = _receive_chunk(header_nbytes, nbytes, self._src, self._group, self._device) if header_nbytes else None
        self._goes_on, self._awaits_answer = chunk is not None, True
        return chunk

    def _end(self, answer: str) -> None:
        """Take part until the sender is done, since the others are still in the broadcasts; then answer, once."""
        while self._goes_on:
            with suppress(LoadError):  # the sender failed: there is no one to tell, and this rank has refused already
                self._next()
        if self._awaits_answer:
            self._awaits_answer = False
            _answers(answer, self._group, self._device)


def _said(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, Fp8LoadError):
        where = f" ({error.problem.where})" if error.problem.where else ""
        return f"{error.problem.code}: {error.problem.message}{where}"
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _answers(answer: str, group: dist.ProcessGroup | None, device: torch.device) -> list[str]:
    """What every rank of the group says: nothing where it has all of the update, as the sender itself."""
    told = answer.encode()[:ANSWER_NBYTES].ljust(ANSWER_NBYTES, b"\0")
    mine = torch.frombuffer(bytearray(told), dtype=torch.uint8).to(device)
    said = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(said, mine, group=group)
    return [bytes(one.cpu().tolist()).rstrip(b"\0").decode(errors="ignore") for one in said]


def _refuse(answers: Sequence[str], group: dist.ProcessGroup | None) -> None:
    """Raise `LoadError` FILL734 where a rank has not taken the update."""
    ranks = range(len(answers)) if group is None else dist.get_process_group_ranks(group)
    refused = {rank: answer for rank, answer in zip(ranks, answers, strict=True) if answer}
    if refused:
        raise LoadError(Problem(
            code="FILL734", message=f"{len(refused)} of {len(answers) - 1} receivers refused the update",
            expected="new weights on every rank",
            got="; ".join(f"rank {rank}: {said}" for rank, said in refused.items()),
            hint="the other ranks have the new weights; mend the update, and send all of it again",
        ))  # fmt: skip


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
