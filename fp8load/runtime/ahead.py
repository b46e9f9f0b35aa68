"""Reading ahead of a device: ranges of files into a small ring of pinned buffers.

The ring is small on purpose: what stays in the processor's cache the device reads from there, and the memory of the
host carries each byte once instead of four times (docs/benchmarks).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from queue import SimpleQueue
from typing import Generic, Protocol

import torch

from fp8load.runtime import posix_aio
from fp8load.runtime.aio_reads import AioReads
from fp8load.runtime.files import Files
from fp8load.runtime.pinned import Buffer, Filled, Mark, What
from fp8load.runtime.readers import Readers
from fp8load.runtime.segments import CHUNK_NBYTES

BUFFER_NBYTES = CHUNK_NBYTES
"""Of a range in a buffer of the ring: 16 MiB with a page on either side. A larger range gets memory of its own."""

NUM_BUFFERS = 6
"""96 MiB: half of them are filled while the device copies out of the others. Pinning them takes 0.03 s."""


class Ahead(Protocol[What]):
    """For one thread, which iterates over what was read and hands buffers back."""

    def run(self) -> Generator[Filled[What], None, None]:
        """Each range when its bytes are there, not always in order. Nothing is read any more when this has ended."""
        ...

    def give(self, filled: Filled[What], mark: Mark) -> None:
        """Hand a buffer back, out of which the device copies until `mark`."""
        ...


def read_ahead(files: Files, work: Iterable[What], device: torch.device, num_threads: int) -> Ahead[What]:
    """By threads of the C library where every file is local and there are such, otherwise by threads of Python."""
    if files.all_local and posix_aio.is_available():
        return AioAhead(files, work, device)
    return ThreadsAhead(files, work, device, num_threads)


class AioAhead(Generic[What]):
    """Parts of ranges, several at the same time; several fill one buffer."""

    def __init__(self, files: Files, work: Iterable[What], device: torch.device) -> None:
        self._files, self._work, self._device = files, iter(work), device
        self._free = deque(Buffer(device, BUFFER_NBYTES) for _ in range(NUM_BUFFERS))

    def run(self) -> Generator[Filled[What], None, None]:
        """As `Ahead`."""
        reads: AioReads[What] = AioReads(self._files)
        try:
            while True:
                while reads.has_room and self._begin(reads):
                    pass
                if reads.is_idle:
                    return
                yield from reads.wait()
        finally:
            reads.finish()

    def _begin(self, reads: AioReads[What]) -> bool:
        """Start to read a part; False if there is none, or its buffer has to be waited for and something else too."""
        if reads.has_part:
            reads.start()
            return True
        if not self._free or not (self._free[0].mark.query() or reads.is_idle):
            return False
        what = next(self._work, None)
        if what is None:
            return False
        size = what.end - what.begin
        buffer = self._free.popleft() if size <= BUFFER_NBYTES else Buffer(self._device, size)
        buffer.mark.synchronize()
        reads.begin(Filled(what, buffer))
        return True

    def give(self, filled: Filled[What], mark: Mark) -> None:
        """As `Ahead`."""
        _give(filled, mark, self._free.append)


class ThreadsAhead(Generic[What]):
    """Each thread fills a buffer."""

    def __init__(self, files: Files, work: Iterable[What], device: torch.device, num_threads: int) -> None:
        self._files, self._work, self._device, self._num_threads = files, work, device, num_threads
        self._free: SimpleQueue[Buffer | None] = SimpleQueue()
        for _ in range(num_threads + NUM_BUFFERS // 2):
            self._free.put(Buffer(device, BUFFER_NBYTES))

    def run(self) -> Generator[Filled[What], None, None]:
        """As `Ahead`."""
        return Readers(self._work, self).run(self._num_threads)

    def read(self, take: Callable[[], What | None]) -> Filled[What] | None:
        """Fill a buffer. It comes before what it is for: the earliest range is never one that waits for a buffer."""
        buffer = self._free.get()
        what = None if buffer is None else take()
        if buffer is None or what is None:
            self._free.put(buffer)  # for the next thread
            return None
        if what.end - what.begin > BUFFER_NBYTES:
            self._free.put(buffer)
            buffer = Buffer(self._device, what.end - what.begin)
        buffer.mark.synchronize()
        self._files.read_pages(what.file, what.begin, what.end, buffer.memory.numpy().data)
        return Filled(what, buffer)

    def stop(self) -> None:
        """No thread waits for a buffer any more."""
        self._free.put(None)

    def give(self, filled: Filled[What], mark: Mark) -> None:
        """As `Ahead`."""
        _give(filled, mark, self._free.put)


def _give(filled: Filled[What], mark: Mark, back: Callable[[Buffer], None]) -> None:
    if filled.what.end - filled.what.begin <= BUFFER_NBYTES:
        filled.buffer.mark = mark
        back(filled.buffer)
    else:
        mark.synchronize()  # its memory is given back
