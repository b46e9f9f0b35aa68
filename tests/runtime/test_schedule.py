"""Which rank reads which bytes: each byte once, nobody much more than others, everything that is needed."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from fp8load.runtime.schedule import divided, needs_of, rounds, windows
from fp8load.runtime.segments import Direct, Segment

LIMIT, GAP = 64, 8

pieces = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 300), st.integers(1, 40)), max_size=25)


def made(places: list[tuple[str, int, int]]) -> list[Segment]:
    found = [Direct(file, at, torch.empty(size, dtype=torch.uint8)) for file, at, size in sorted(places)]
    return list(found)


@given(st.lists(pieces, min_size=1, max_size=4))
def test_every_segment_is_read_alone_or_lies_in_one_window_of_its_rank(everyone: list) -> None:
    found = [made(places) for places in everyone]
    shared = windows([needs_of(each) for each in found], LIMIT, GAP)

    for rank, each in enumerate(found):
        alone, within = divided(each, shared, rank)
        inside = [segment for window in within for segment in within[window]]
        assert sorted(map(id, (segment.target for segment in alone + inside))) == sorted(
            id(segment.target) for segment in each
        )
        for window, segments in within.items():
            assert window.ranks >> rank & 1
            for segment in segments:
                assert window.file == segment.file
                assert window.begin <= segment.begin < segment.end <= window.end


@given(st.lists(pieces, min_size=1, max_size=4))
def test_windows_do_not_overlap_are_bounded_and_read_by_one_who_needs_them(everyone: list) -> None:
    shared = windows([needs_of(made(places)) for places in everyone], LIMIT, GAP)

    ends: dict[str, int] = {}
    for window in sorted(shared):
        assert window.begin >= ends.get(window.file, 0)
        ends[window.file] = window.end
        assert 0 < window.nbytes <= LIMIT
        assert window.ranks.bit_count() >= 2
        assert window.ranks >> window.reader & 1


def test_ranks_that_need_all_read_a_half_each() -> None:
    found = made([("a", at, 64) for at in range(0, 64 * 10, 64)])
    shared = windows([needs_of(found)] * 2, LIMIT, GAP)

    assert [sum(window.nbytes for window in shared if window.reader == rank) for rank in range(2)] == [320, 320]
    assert sum(window.nbytes for window in shared) == 640


def test_who_reads_much_alone_reads_less_for_others() -> None:
    common = [("a", at, 64) for at in range(0, 640, 64)]
    shared = windows([needs_of(made([*common, ("b", 0, 640)])), needs_of(made(common))], LIMIT, GAP)

    assert {window.reader for window in shared} == {1}


def test_what_ranks_need_side_by_side_is_not_handed_around() -> None:
    halves = [made([("a", at + 32 * rank, 32) for at in range(0, 640, 64)]) for rank in range(2)]

    assert windows([needs_of(each) for each in halves], LIMIT, GAP) == []


def test_in_each_round_every_rank_reads_its_next_window() -> None:
    found = made([("a", at, 64) for at in range(0, 64 * 5, 64)])
    shared = windows([needs_of(found)] * 2, LIMIT, GAP)
    planned = rounds(shared, 2)

    assert len(planned) == 3
    assert [window for each in planned for window in each if window is not None] == shared
    assert planned[-1][1] is None
    for each in planned:
        assert all(window is None or window.reader == rank for rank, window in enumerate(each))
