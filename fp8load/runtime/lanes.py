"""How one reader thread gets the bytes of a batch into parameters: one kind of lane for the CPU, one for devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Protocol

import torch

from fp8load.runtime.batches import Batch
from fp8load.runtime.files import Files
from fp8load.runtime.segments import CHUNK_NBYTES, PAGE, Direct, Segment, Staged

BATCH_NBYTES = CHUNK_NBYTES
"""Of a read for a device: with 16 threads and two buffers each, 256 MiB of pinned memory."""

GAP_NBYTES = 128 << 10
"""Bytes between two pieces that are read and copied for nothing, where that is cheaper than two reads."""

ALIGNMENT = 64
"""Of pieces in a buffer: any dtype, and a cache line."""

LARGE_NBYTES = 1 << 20
"""Pieces that are copied one by one on the device; smaller ones go together."""


class Lane(Protocol):
    """One thread's; not safe to use from several."""

    def run(self, files: Files, batch: Batch) -> None:
        """Read a batch and put its segments in their places, now or soon."""
        ...

    def finish(self) -> None:
        """Wait until everything is in its place."""
        ...


class HostLane:
    """Straight into parameters in host memory; what has to be cut or turned passes through a buffer of the lane."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8, device="cpu")

    def _parts(self, sizes: Sequence[int]) -> list[torch.Tensor]:
        """Memory for each size, side by side and aligned, which the next batch takes again: fresh pages cost more."""
        begins = list(accumulate((-(-size // ALIGNMENT) * ALIGNMENT for size in sizes), initial=0))
        if len(self._buffer) < begins[-1]:
            self._buffer = torch.empty(begins[-1], dtype=torch.uint8, device="cpu")
        return [self._buffer[begin : begin + size] for begin, size in zip(begins, sizes, strict=False)]

    def run(self, files: Files, batch: Batch) -> None:
        """Read a batch; place what passed through a buffer."""
        staged = [segment for segment in batch.segments if isinstance(segment, Staged)]
        parts = self._parts([segment.end - segment.begin for segment in staged])
        ahead = iter(parts)
        targets = (each.target if isinstance(each, Direct) else next(ahead) for each in batch.segments)
        files.read(batch, [target.numpy().data for target in targets])
        for segment, part in zip(staged, parts, strict=True):
            segment.place(part)

    def finish(self) -> None:
        """Nothing is left to wait for."""


class Stream(Protocol):
    """The queue of a device that a lane's copies go through."""

    def pinned(self, nbytes: int) -> torch.Tensor:
        """Host memory, uint8 [nbytes], that the device copies from by itself."""
        ...

    def queue(self, work: Callable[[], None]) -> Callable[[], None]:
        """Queue work; what is returned waits until it is done."""
        ...


class CudaStream:
    """A side stream, which begins after what was queued on another one: where parameters were made."""

    def __init__(self, device: torch.device, after: torch.cuda.Stream | None = None) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(after or torch.cuda.current_stream(device))

    def pinned(self, nbytes: int) -> torch.Tensor:
        """Page-locked memory."""
        return torch.empty(nbytes, dtype=torch.uint8, device="cpu", pin_memory=True)

    def queue(self, work: Callable[[], None]) -> Callable[[], None]:
        """On the stream; who waits sleeps."""
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            work()
            done.record(self._stream)
        return done.synchronize


class NoStream:
    """For devices without streams of CUDA's kind: work is done at once, in order."""

    def pinned(self, nbytes: int) -> torch.Tensor:
        """Ordinary memory."""
        return torch.empty(nbytes, dtype=torch.uint8, device="cpu")

    def queue(self, work: Callable[[], None]) -> Callable[[], None]:
        """Do it."""
        work()
        return _nothing


def stream_of(device: torch.device, after: torch.cuda.Stream | None = None) -> Stream:
    """A new one."""
    return CudaStream(device, after) if device.type == "cuda" else NoStream()


def _nothing() -> None:
    """Wait for nothing."""


class DeviceLane:
    """Through one of two pinned buffers, then in one copy to the device, where pieces are cut, turned and widened.

    While the device copies out of one buffer the other is filled. Memory: twice `BATCH_NBYTES` pinned, once on the
    device; a tensor that cannot be cut into rows and is larger takes its own size of both while it is placed.
    """

    def __init__(self, device: torch.device, after: torch.cuda.Stream | None = None) -> None:
        self._device = device
        self._stream = stream_of(device, after)
        self._buffers = [self._stream.pinned(BATCH_NBYTES + 2 * PAGE) for _ in range(2)]
        self._free: list[Callable[[], None]] = [_nothing, _nothing]
        self._staging = torch.empty(BATCH_NBYTES, dtype=torch.uint8, device=device)
        self._turn = 0

    @classmethod
    def maker(cls, device: torch.device) -> Callable[[], DeviceLane]:
        """What makes lanes in other threads, whose streams begin after what this one has told the device."""
        after = torch.cuda.current_stream(device) if device.type == "cuda" else None
        return lambda: cls(device, after)

    def run(self, files: Files, batch: Batch) -> None:
        """Wait for a buffer, fill it, and queue the copies out of it."""
        turn, self._turn = self._turn, 1 - self._turn
        self._free[turn]()
        if batch.nbytes > BATCH_NBYTES:
            data = files.read_into(batch, self._stream.pinned(batch.nbytes + 2 * PAGE))
            staging = torch.empty(batch.nbytes, dtype=torch.uint8, device=self._device)
            self._stream.queue(lambda: _copied(batch, data, staging))()
            return
        data = files.read_into(batch, self._buffers[turn])
        self._free[turn] = self._stream.queue(lambda: _copied(batch, data, self._staging))

    def finish(self) -> None:
        """Wait for both buffers."""
        for wait in self._free:
            wait()


def _copied(batch: Batch, data: torch.Tensor, staging: torch.Tensor) -> None:
    """From pinned memory, uint8 [n], to where it belongs: straight, or through memory of the device."""
    first = batch.segments[0]
    if len(batch.segments) == 1 and isinstance(first, Direct):
        first.target.copy_(data, non_blocking=True)
        return
    staged = staging[: batch.nbytes]
    staged.copy_(data, non_blocking=True)
    place(batch.segments, batch.begin, staged)


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
