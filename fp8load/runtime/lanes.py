"""How the bytes of a batch get into parameters: by each reader thread on the CPU, in one place for a device."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from itertools import accumulate, cycle

import torch

from fp8load.runtime.ahead import Ahead
from fp8load.runtime.batches import Batch
from fp8load.runtime.files import Files
from fp8load.runtime.pinned import Mark, Past
from fp8load.runtime.segments import Direct, Segment, Staged

NUM_SLOTS = 2
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

    def stop(self) -> None:
        """No thread waits."""


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


def to_device(ahead: Ahead[Batch], device: torch.device) -> Generator[Batch, None, None]:
    """Queue the copies of what is read ahead, in one copy to the device or a few, where pieces are cut, turned and
    widened. Each batch when it is queued; at the end, however it comes, everything is in its place.

    Memory, beside what `ahead` has: `NUM_SLOTS` batches on the device; a batch that is larger than a buffer takes its
    own size while it is placed.
    """
    slots = [Slot(device) for _ in range(NUM_SLOTS)]
    try:
        with closing(ahead.run()) as filled:
            for each, slot in zip(filled, cycle(slots), strict=False):
                ahead.give(each, slot.queue(partial(_copied, each.what, each.data, slot)))
                yield each.what
    finally:
        for slot in slots:  # also after an error: a device must not write into memory that was given back
            slot.finish()


class Slot:
    """A stream, which begins after what was queued on the current one (parameters were made there), and memory that
    bytes arrive in before pieces of them are placed."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._staging = torch.empty(0, dtype=torch.uint8, device=device)
        self._usual: torch.cuda.Stream | None = None
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._usual, self._stream = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._stream.wait_stream(self._usual)

    def staging(self, nbytes: int) -> torch.Tensor:
        """uint8 [nbytes] of the device, which the next batch takes again. For the stream."""
        if len(self._staging) < nbytes:
            self._staging = torch.empty(nbytes, dtype=torch.uint8, device=self.device)
        return self._staging[:nbytes]

    def queue(self, work: Callable[[], None]) -> Mark:
        """Work of the current device on the stream. (`torch.cuda.stream` would take longer than to queue a copy.)"""
        if self._stream is None or self._usual is None:
            work()
            return Past()
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        torch.cuda.set_stream(self._stream)
        try:
            work()
            done.record(self._stream)
        finally:
            torch.cuda.set_stream(self._usual)
        return done

    def finish(self) -> None:
        """Wait for everything."""
        if self._stream is not None:
            self._stream.synchronize()


def _copied(batch: Batch, data: torch.Tensor, slot: Slot) -> None:
    """From pinned memory, uint8 [n], to where it belongs: straight where that is a few copies, or through memory of the
    device."""
    segments = batch.segments
    if len(segments) <= FEW and all(isinstance(segment, Direct) for segment in segments):
        for segment in segments:
            begin = segment.begin - batch.begin
            segment.target.copy_(data[begin : begin + segment.nbytes], non_blocking=True)
        return
    staged = slot.staging(batch.nbytes)
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
