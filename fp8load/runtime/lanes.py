"""How the bytes of a batch get into parameters: one kind of lane for the CPU, one for devices."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Protocol, TypeVar

import torch

from fp8load.runtime.batches import Batch
from fp8load.runtime.files import Files
from fp8load.runtime.pinned import BUFFER_NBYTES, Filled, Filler, Wait
from fp8load.runtime.readers import Reading
from fp8load.runtime.segments import Direct, Segment, Staged

NUM_STREAMS = 2
"""So that pieces are placed out of one staging buffer while bytes arrive in another."""

GAP_NBYTES = 128 << 10
"""Bytes between two pieces that are read and copied for nothing, where that is cheaper than two reads."""

ALIGNMENT = 64
"""Of pieces in a buffer: any dtype, and a cache line."""

FEW = 3
"""Pieces that are copied to the device one by one: queueing a copy takes 12 us, and one through staging three of it."""

LARGE_NBYTES = 1 << 20
"""Pieces that are copied one by one on the device; smaller ones go together."""


Take = Callable[[], Batch | None]
"""The next batch; None when there is no more."""

Read = TypeVar("Read")


class Lane(Reading[Batch, Read], Protocol[Read]):
    """Threads `read`; the other calls belong to one thread."""

    def place(self, read: Read) -> int:
        """Put what was read in its places, now or soon; the bytes that are kept."""
        ...

    def finish(self) -> None:
        """Wait until everything is in its place."""
        ...


class HostLane:
    """Straight into parameters in host memory; what has to be cut or turned passes through a buffer of the thread."""

    def __init__(self, files: Files) -> None:
        self._files, self._of_thread = files, _Memory()

    def read(self, take: Take) -> Batch | None:
        """Read a batch; place what passed through a buffer."""
        batch = take()
        if batch is None:
            return None
        staged = [segment for segment in batch.segments if isinstance(segment, Staged)]
        parts = self._of_thread.parts([segment.end - segment.begin for segment in staged])
        ahead = iter(parts)
        targets = (each.target if isinstance(each, Direct) else next(ahead) for each in batch.segments)
        self._files.read(batch, [target.numpy().data for target in targets])
        for segment, part in zip(staged, parts, strict=True):
            segment.place(part)
        return batch

    def place(self, read: Batch) -> int:
        """They are in their places."""
        return read.nbytes_kept

    def stop(self) -> None:
        """No thread waits."""

    def finish(self) -> None:
        """Nothing is left to wait for."""


class _Memory(threading.local):
    """A buffer of each thread."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8, device="cpu")

    def parts(self, sizes: Sequence[int]) -> list[torch.Tensor]:
        """Memory for each size, side by side and aligned, which the next batch takes again: fresh pages cost more."""
        begins = list(accumulate((-(-size // ALIGNMENT) * ALIGNMENT for size in sizes), initial=0))
        if len(self._buffer) < begins[-1]:
            self._buffer = torch.empty(begins[-1], dtype=torch.uint8, device="cpu")
        return [self._buffer[begin : begin + size] for begin, size in zip(begins, sizes, strict=False)]


class Stream(Protocol):
    """The queue of a device that copies go through."""

    def queue(self, work: Callable[[], None]) -> Wait:
        """Queue work; what is returned waits until it is done."""
        ...

    def finish(self) -> None:
        """Wait for all of it."""
        ...


class CudaStream:
    """A side stream of the current device, which begins after what was queued on the current one: parameters were made
    there."""

    def __init__(self, device: torch.device) -> None:
        self._usual = torch.cuda.current_stream(device)
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(self._usual)

    def queue(self, work: Callable[[], None]) -> Wait:
        """On the stream; who waits sleeps. (`torch.cuda.stream` would take longer than a copy takes to be queued.)"""
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        torch.cuda.set_stream(self._stream)
        try:
            work()
            done.record(self._stream)
        finally:
            torch.cuda.set_stream(self._usual)
        return done.synchronize

    def finish(self) -> None:
        """As `Stream`."""
        self._stream.synchronize()


class NoStream:
    """For devices without streams of CUDA's kind: work is done at once, in order."""

    def queue(self, work: Callable[[], None]) -> Wait:
        """Do it."""
        work()
        return self.finish

    def finish(self) -> None:
        """Nothing is left."""


def stream_of(device: torch.device) -> Stream:
    """A new one."""
    return CudaStream(device) if device.type == "cuda" else NoStream()


class DeviceLane:
    """Through pinned buffers, then in one copy to the device, where pieces are cut, turned and widened.

    Threads fill buffers, and the thread that calls `place` queues the copies, which are done while others are filled.
    Memory: `NUM_BUFFERS` times `BUFFER_NBYTES` pinned, `NUM_STREAMS` times on the device; a tensor that cannot be cut
    into rows and is larger takes its own size of both while it is placed.
    """

    def __init__(self, files: Files, device: torch.device) -> None:
        self._device = device
        self._filler: Filler[Batch] = Filler(files, device)
        self._slots = [Slot(device) for _ in range(NUM_STREAMS)]
        self._turn = 0

    def read(self, take: Take) -> Filled[Batch] | None:
        """Fill a buffer, or a part of it."""
        return self._filler.read(take)

    def place(self, read: Filled[Batch]) -> int:
        """Queue the copies out of a buffer, which goes back."""
        batch, data = read.what, read.data
        slot, self._turn = self._slots[self._turn], (self._turn + 1) % NUM_STREAMS
        if read.buffer is not None:
            self._filler.give(read, slot.stream.queue(lambda: _copied(batch, data, slot.staging)))
        else:
            staging = torch.empty(batch.nbytes, dtype=torch.uint8, device=self._device)
            slot.stream.queue(lambda: _copied(batch, data, staging))()
        return batch.nbytes_kept

    def stop(self) -> None:
        """No thread waits for a buffer any more."""
        self._filler.stop()

    def finish(self) -> None:
        """Wait for all copies. Also after an error: a device must not write into memory that was given back."""
        for slot in self._slots:
            slot.stream.finish()


class Slot:
    """A stream and memory of the device that bytes arrive in before pieces of them are placed, uint8 [n]."""

    def __init__(self, device: torch.device) -> None:
        self.stream = stream_of(device)
        self.staging = torch.empty(BUFFER_NBYTES, dtype=torch.uint8, device=device)


def _copied(batch: Batch, data: torch.Tensor, staging: torch.Tensor) -> None:
    """From pinned memory, uint8 [n], to where it belongs: straight where that is a few copies, or through memory of the
    device."""
    segments = batch.segments
    if len(segments) <= FEW and all(isinstance(segment, Direct) for segment in segments):
        for segment in segments:
            begin = segment.begin - batch.begin
            segment.target.copy_(data[begin : begin + segment.nbytes], non_blocking=True)
        return
    staged = staging[: batch.nbytes]
    staged.copy_(data, non_blocking=True)
    place(segments, batch.begin, staged)


def place(segments: Sequence[Segment], begin: int, staged: torch.Tensor) -> None:
    """Segments out of bytes of a file from `begin` on, uint8 [n] on the device of their parameters."""
    targets: list[torch.Tensor] = []
    pieces: list[torch.Tensor] = []
    for segment in segments:
        piece = staged[segment.begin - begin : segment.end - begin]
        if not isinstance(segment, Direct):
            segment.place(piece)
        elif len(piece) >= LARGE_NBYTES:
            segment.target.copy_(piece)
        else:
            targets.append(segment.target)
            pieces.append(piece)
    if targets:
        torch._foreach_copy_(targets, pieces)
