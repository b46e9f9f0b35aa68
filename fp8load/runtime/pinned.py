"""Buffers that go round between threads, which fill them together, and a device that copies out of them.

The ring is small on purpose: while it stays in the processor's cache, the device reads it from there, and the memory of
the host carries each byte once instead of four times. On an H200 64 to 128 MiB fill the link, 512 MiB do not
(docs/benchmarks).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, Protocol, TypeVar

import torch

from fp8load.runtime.files import Files
from fp8load.runtime.segments import CHUNK_NBYTES, PAGE

BUFFER_NBYTES = CHUNK_NBYTES
"""Of a batch in a buffer, which has a page on either side: 16 MiB."""

NUM_BUFFERS = 8
"""128 MiB: half of them are filled while the device copies out of the others."""

PART_NBYTES = 4 << 20
"""What one thread reads of a batch: several fill one buffer, so that few buffers are in use."""

Wait = Callable[[], None]


class Buffer:
    """uint8 [n], whole pages; `wait` until what was queued to copy out of it is done."""

    __slots__ = ("memory", "wait")

    def __init__(self, memory: torch.Tensor) -> None:
        self.memory = memory
        self.wait: Wait = _nothing


class Buffers:
    """At most `limit` of them, each made when it is first needed, by the thread that needs it: pinning takes time, and
    other threads read meanwhile. Safe to use from several threads."""

    def __init__(self, limit: int, make: Callable[[], torch.Tensor]) -> None:
        self._make, self._left = make, limit
        self._making = threading.Lock()
        self._free: SimpleQueue[Buffer | None] = SimpleQueue()

    def take(self) -> Buffer | None:
        """One that nothing is copied out of any more; None after `stop`. Waits for one."""
        try:
            buffer = self._free.get_nowait()
        except Empty:
            if self._may_make():
                return Buffer(self._make())
            buffer = self._free.get()
        if buffer is None:
            self._free.put(None)  # for the next thread
            return None
        buffer.wait()
        return buffer

    def give(self, buffer: Buffer) -> None:
        """Hand one back."""
        self._free.put(buffer)

    def stop(self) -> None:
        """From now on nobody waits."""
        self._free.put(None)

    def _may_make(self) -> bool:
        with self._making:
            self._left -= 1
            return self._left >= 0


class Range(Protocol):
    """Bytes of a file."""

    @property
    def file(self) -> str:
        """Its name."""
        ...

    @property
    def begin(self) -> int:
        """The first byte."""
        ...

    @property
    def end(self) -> int:
        """The first byte after them."""
        ...


What = TypeVar("What", bound=Range)


class Filled(Generic[What]):
    """A range and its bytes, `data`, uint8 [n], in a buffer, which is None where they have memory of their own."""

    __slots__ = ("_begin", "_pages", "_unread", "_view", "buffer", "what")

    def __init__(self, what: What, buffer: Buffer | None, pages: torch.Tensor) -> None:
        self.what, self.buffer = what, buffer
        self._pages, self._view = pages, pages.numpy().data
        self._begin, self._unread = what.begin, what.end - what.begin

    @property
    def data(self) -> torch.Tensor:
        """They lie at the same place within a page as in the file: what reads past the page cache must."""
        skew = self.what.begin % PAGE
        return self._pages[skew : skew + self.what.end - self.what.begin]

    def next_part(self) -> tuple[int, int]:
        """What a thread shall read now; nothing, if all of it is being read."""
        begin = self._begin
        self._begin = min(self.what.end, (begin + PART_NBYTES) // PAGE * PAGE)
        return begin, self._begin

    def pages(self, begin: int) -> memoryview:
        """Memory from the page on that byte `begin` of the file lies in."""
        return self._view[begin // PAGE * PAGE - self.what.begin // PAGE * PAGE :]

    def is_full_with(self, nbytes: int) -> bool:
        """Whether nothing is missing, now that so many more bytes were read."""
        self._unread -= nbytes
        return self._unread == 0


class Filler(Generic[What]):
    """What reader threads do for a device: each reads the next part of the batch whose turn it is."""

    def __init__(self, files: Files, device: torch.device) -> None:
        self._files, self._device = files, device
        self._buffers = Buffers(NUM_BUFFERS, lambda: self._memory(BUFFER_NBYTES))
        self._taking, self._counting = threading.Lock(), threading.Lock()
        self._filling: Filled[What] | None = None

    def read(self, take: Callable[[], What | None]) -> Filled[What] | None:
        """What this thread read the last part of; None when there is no more, or after `stop`."""
        while True:
            with self._taking:
                filling, begin, end = self._next(take)
            if filling is None:
                return None
            self._files.read_pages(filling.what.file, begin, end, filling.pages(begin))
            with self._counting:
                if filling.is_full_with(end - begin):
                    return filling

    def _next(self, take: Callable[[], What | None]) -> tuple[Filled[What] | None, int, int]:
        """A buffer comes before what it is for: so the earliest batch is never one that waits for a buffer."""
        if self._filling is not None:
            begin, end = self._filling.next_part()
            if begin < end:
                return self._filling, begin, end
        self._filling = None
        buffer = self._buffers.take()
        what = take() if buffer is not None else None
        if buffer is None or what is None:
            if buffer is not None:
                self._buffers.give(buffer)
            return None, 0, 0
        if what.end - what.begin <= BUFFER_NBYTES:
            self._filling = Filled(what, buffer, buffer.memory)
        else:
            self._buffers.give(buffer)
            self._filling = Filled(what, None, self._memory(what.end - what.begin))
        return self._filling, *self._filling.next_part()

    def give(self, filled: Filled[What], wait: Wait) -> None:
        """Hand a buffer back, out of which the device copies until `wait` returns."""
        if filled.buffer is not None:
            filled.buffer.wait = wait
            self._buffers.give(filled.buffer)

    def stop(self) -> None:
        """No thread waits for a buffer any more."""
        self._buffers.stop()

    def _memory(self, nbytes: int) -> torch.Tensor:
        """Whole pages, which a GPU copies from by itself."""
        pinned = self._device.type == "cuda"
        return torch.empty(nbytes + 2 * PAGE, dtype=torch.uint8, device="cpu", pin_memory=pinned)


def _nothing() -> None:
    """Wait for nothing."""
