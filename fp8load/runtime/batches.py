"""Neighbouring pieces of a file that are read together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from fp8load.runtime.segments import Segment

MAX_SEGMENTS = 256
"""In one read: far below the system's limit of 1024 vectors, and a bounded number of copies on a device."""


class Batch(NamedTuple):
    """Segments of one file in order, read in one go: bytes `begin:end`, gaps between segments included."""

    file: str
    begin: int
    end: int
    segments: tuple[Segment, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that are read."""
        return self.end - self.begin

    @property
    def nbytes_kept(self) -> int:
        """Bytes of them that parameters get."""
        return sum(segment.nbytes for segment in self.segments)


def batches(found: Iterable[Segment], limit: int, gap: int = 0) -> Iterator[Batch]:
    """Join segments, in the order of files and places, that lie at most `gap` bytes apart, up to `limit` bytes.

    With a gap of 0 they touch, and a range that fills two slots is read twice (these are scalars); with a larger one
    it is read once.
    """
    run: list[Segment] = []
    end = 0
    for segment in found:
        if run:
            full = max(end, segment.end) - run[0].begin > limit or len(run) >= MAX_SEGMENTS
            apart = segment.begin != end if gap == 0 else not run[0].begin <= segment.begin <= end + gap
            if full or apart or segment.file != run[0].file:
                yield Batch(run[0].file, run[0].begin, end, tuple(run))
                run = []
        end = max(end, segment.end) if run else segment.end
        run.append(segment)
    if run:
        yield Batch(run[0].file, run[0].begin, end, tuple(run))
