"""Which rank of a host reads which bytes, so that what several need is read once. Pure, the same on every rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fp8load.runtime.segments import Segment

Needs = Mapping[str, NDArray[np.int64]]
"""What a rank reads: file -> [segments, 2], first byte and first byte after, in order of the first."""

WORTH = 1.25
"""Bytes that ranks need, over bytes that there are, from which reading once and handing on pays: below, ranks need
parts of their own, and only the edges of these are common."""


class Window(NamedTuple):
    """Bytes `begin:end` of a file, which rank `reader` reads for all in `ranks`, a set of bits."""

    file: str
    begin: int
    end: int
    ranks: int
    reader: int

    @property
    def nbytes(self) -> int:
        """Bytes that are read and handed on."""
        return self.end - self.begin


def needs_of(found: Sequence[Segment]) -> Needs:
    """What a rank needs, from its segments, which are sorted."""
    places: dict[str, list[tuple[int, int]]] = {}
    for segment in found:
        places.setdefault(segment.file, []).append((segment.begin, segment.end))
    return {file: np.array(pairs, dtype=np.int64) for file, pairs in places.items()}


def windows(needs: Sequence[Needs], limit: int, gap: int) -> list[Window]:
    """Windows of at most `limit` bytes that several ranks need, none of whose edges cuts a segment of any rank.

    Readers are chosen so that all ranks read about as much, with what each needs alone.
    """
    shared: list[Window] = []
    load = [0] * len(needs)
    for file in sorted(set().union(*needs)):
        for begin, end, ranks, wanted in _clusters(needs, file):
            if wanted < WORTH * (end - begin) or end - begin > limit or ranks.bit_count() < 2:
                for rank in _bits(ranks):
                    load[rank] += wanted // ranks.bit_count()
                continue
            last = shared[-1] if shared else None
            if (last is not None and last.file == file and last.ranks == ranks
                    and begin - last.end <= gap and end - last.begin <= limit):  # fmt: skip
                shared[-1] = last._replace(end=end)
            else:
                shared.append(Window(file, begin, end, ranks, -1))
    return list(_with_readers(shared, load))


def _clusters(needs: Sequence[Needs], file: str) -> Iterator[tuple[int, int, int, int]]:
    """Segments of any rank that overlap, as one piece: first byte, first byte after, ranks, bytes that they need."""
    pieces = [(rank, need[file]) for rank, need in enumerate(needs) if file in need]
    places = np.concatenate([pairs for _, pairs in pieces])
    bits = np.concatenate([np.full(len(pairs), 1 << rank, dtype=np.int64) for rank, pairs in pieces])
    order = np.argsort(places[:, 0], kind="stable")
    begins, ends, bits = places[order, 0], np.maximum.accumulate(places[order, 1]), bits[order]
    first = np.flatnonzero(np.concatenate([[True], begins[1:] >= ends[:-1]]))
    last = np.append(first[1:], len(begins)) - 1
    wanted = np.add.reduceat(places[order, 1] - begins, first)
    ranks = np.bitwise_or.reduceat(bits, first)
    yield from zip(begins[first].tolist(), ends[last].tolist(), ranks.tolist(), wanted.tolist(), strict=True)


def _with_readers(shared: Sequence[Window], load: Sequence[int]) -> Iterator[Window]:
    """Each window with that rank of its own that has least to read so far, the lowest of several."""
    so_far = list(load)
    for window in shared:
        reader = min(_bits(window.ranks), key=lambda rank: (so_far[rank], rank))
        so_far[reader] += window.nbytes
        yield window._replace(reader=reader)


def _bits(ranks: int) -> list[int]:
    return [rank for rank in range(ranks.bit_length()) if ranks >> rank & 1]


def rounds(shared: Sequence[Window], num_ranks: int) -> list[tuple[Window | None, ...]]:
    """What each rank reads in each round: its windows in the order of the files, None when it has no more."""
    own = [[window for window in shared if window.reader == rank] for rank in range(num_ranks)]
    longest = max(map(len, own), default=0)
    return [tuple(each[at] if at < len(each) else None for each in own) for at in range(longest)]


def divided(
    found: Sequence[Segment], shared: Sequence[Window], rank: int
) -> tuple[list[Segment], dict[Window, tuple[Segment, ...]]]:
    """The segments of a rank that lie in no shared window, and those of each window that is shared with it."""
    alone: list[Segment] = []
    within: dict[Window, list[Segment]] = {}
    ahead = iter(sorted(window for window in shared if window.ranks >> rank & 1))
    window = next(ahead, None)
    for segment in found:
        while window is not None and (window.file, window.end) <= (segment.file, segment.begin):
            window = next(ahead, None)
        if window is not None and window.file == segment.file and window.begin <= segment.begin:
            within.setdefault(window, []).append(segment)
        else:
            alone.append(segment)
    return alone, {window: tuple(each) for window, each in within.items()}
