"""Ranges of files in parts that the C library reads at the same time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Generic, NamedTuple

from fp8load.runtime.files import Files, Way
from fp8load.runtime.pinned import Filled, What
from fp8load.runtime.posix_aio import AsyncReads, Read
from fp8load.runtime.segments import PAGE

PART_NBYTES = 4 << 20
"""Several parts fill one buffer, so that few buffers are in use."""

NUM_READS = 10
"""At the same time: what fills the link of an H200 from the page cache, and is enough for a disk."""


class _Range(Generic[What]):
    """A range that is being read: `at` and on nobody reads yet, `unread` bytes have not arrived."""

    __slots__ = ("at", "filled", "pages", "started", "unread", "way")

    def __init__(self, filled: Filled[What], way: Way) -> None:
        self.filled, self.way = filled, way
        self.at, self.unread = filled.what.begin, filled.what.end - filled.what.begin
        self.pages = filled.buffer.memory.data_ptr() - filled.what.begin // PAGE * PAGE
        self.started = time.perf_counter()


class _Part(NamedTuple, Generic[What]):
    """Bytes `begin:end` of a file, which are being read; `direct`: with the rest of their pages."""

    of: _Range[What]
    begin: int
    end: int
    direct: bool


class AioReads(Generic[What]):
    """One range after the other is cut into parts, which come back in any order. For one thread."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._reads = AsyncReads(NUM_READS)
        self._under_way: dict[int, _Part[What]] = {}
        self._cutting: _Range[What] | None = None
        _unfinished.add(self)

    @property
    def has_room(self) -> bool:
        """Whether another part can be read."""
        return self._reads.room > 0

    @property
    def is_idle(self) -> bool:
        """Whether none is being read."""
        return self._reads.is_idle

    @property
    def has_part(self) -> bool:
        """Whether the range that was begun last has parts that nobody reads yet."""
        return self._cutting is not None

    def begin(self, filled: Filled[What]) -> None:
        """Read a range, which has at least a byte."""
        what = filled.what
        self._cutting = _Range(filled, self._files.way(what.file, what.begin, what.end))
        self.start()

    def start(self) -> None:
        """Read as many parts of it as there is room for. They end where pages do, as reads past the page cache want."""
        this = self._cutting
        if this is None:
            raise ValueError("no range has parts that nobody reads")
        parts: list[_Part[What]] = []
        last = this.filled.what.end
        while this.at < last and len(parts) < self._reads.room:
            end = min(last, (this.at + PART_NBYTES) // PAGE * PAGE)
            parts.append(_Part(this, this.at, end, this.way.direct))
            this.at = end
        self._start(parts, this.way.descriptor)
        if this.at == last:
            self._cutting = None

    def _start(self, parts: list[_Part[What]], descriptor: int) -> None:
        reads = []
        for of, begin, end, direct in parts:
            at, stop = (begin // PAGE * PAGE, -(-end // PAGE) * PAGE) if direct else (begin, end)
            reads.append(Read(descriptor, of.pages + at, stop - at, at))
        try:
            slots = self._reads.start(reads)
        except OSError as error:
            what = parts[0].of.filled.what
            raise self._files.failed(what.file, what.begin, what.end, error) from error
        self._under_way.update(zip(slots, parts, strict=True))

    def wait(self) -> Iterator[Filled[What]]:
        """Ranges that are complete now, perhaps none. Raises what reading a file raises."""
        for part, answer in [(self._under_way.pop(slot), answer) for slot, answer in self._reads.wait()]:
            of, begin, end, direct = part
            file = of.filled.what.file
            if isinstance(answer, OSError):
                if not (direct and self._files.refused(file, answer)):
                    raise self._files.failed(file, begin, end, answer) from answer
                reached = begin
            else:
                if answer == 0:
                    raise self._files.ended(file, begin, end)
                reached = max(begin, min((begin // PAGE * PAGE if direct else begin) + answer, end))
            of.unread -= reached - begin
            if reached < end:
                self._start([_Part(of, reached, end, direct=False)], self._files.descriptor(file))
            elif of.unread == 0:
                if of.way.timed:
                    nbytes = of.filled.what.end - of.filled.what.begin
                    self._files.took(of.way, nbytes, time.perf_counter() - of.started)
                yield of.filled

    def finish(self) -> None:
        """Nothing is read any more: buffers may be given back."""
        self._reads.finish()
        self._under_way.clear()
        _unfinished.discard(self)


_unfinished: set[AioReads[Any]] = set()
"""What is still read into, also where an interrupt ended the waiting: its memory must not be another's by then."""
