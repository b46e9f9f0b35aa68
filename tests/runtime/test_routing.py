"""Rows sorted by expert, and their sum back, against loops in Python."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp8load.runtime.routing import combined, room_for, route


@st.composite
def routings(draw: st.DrawFn) -> tuple[torch.Tensor, range, int]:
    """ids [T, k] of experts of this rank and of others, the rank's experts, an alignment."""
    num_tokens, k = draw(st.integers(0, 12)), draw(st.integers(1, 4))
    first, num_experts = draw(st.integers(0, 3)), draw(st.integers(1, 6))
    numbers = st.integers(0, first + num_experts + 2)
    ids = draw(st.lists(st.lists(numbers, min_size=k, max_size=k), min_size=num_tokens, max_size=num_tokens))
    dtype = draw(st.sampled_from([torch.int32, torch.int64]))
    given_ids = torch.tensor(ids, dtype=dtype).reshape(num_tokens, k)
    return given_ids, range(first, first + num_experts), draw(st.sampled_from([1, 2, 16]))


@settings(max_examples=200, deadline=None)
@given(routings())
def test_every_pair_of_this_rank_has_one_row_among_those_of_its_expert(case: tuple[torch.Tensor, range, int]) -> None:
    ids, experts, alignment = case

    routing = route(ids, experts, alignment)

    pairs = [(token, j, int(e)) for token, row in enumerate(ids) for j, e in enumerate(row)]
    held = [(token, e - experts.start) for token, _, e in pairs if e in experts]
    rows = list(zip(routing.token.tolist(), routing.expert.tolist(), strict=True))
    assert routing.num_rows == room_for(ids.numel(), len(experts), alignment)
    assert routing.num_rows % alignment == 0
    assert sorted(row for row in rows if row != (-1, -1)) == sorted(held)
    for token, j, e in pairs:
        at = int(routing.position[token, j])
        assert rows[at] == (token, e - experts.start) if e in experts else at == routing.num_rows
    for at in range(len(experts)):
        begin, behind, end = int(routing.starts[at]), int(routing.starts[at + 1]), int(routing.ends[at])
        assert begin % alignment == 0
        assert 0 <= behind - end < alignment
        assert [expert for _, expert in rows[begin:end]] == [at] * (end - begin)
        assert [token for token, _ in rows[begin:end]] == sorted(token for token, expert in held if expert == at)
        assert rows[end:behind] == [(-1, -1)] * (behind - end)


def test_no_routing_needs_more_room() -> None:
    for num_experts in range(1, 5):
        for num_pairs in range(9):
            splits = [(n,) for n in range(num_pairs + 1)]
            for _ in range(num_experts - 1):
                splits = [(*s, n) for s in splits for n in range(num_pairs + 1 - sum(s))]
            for alignment in (1, 2, 4):
                most = max(sum(-(-n // alignment) * alignment for n in s) for s in splits if sum(s) <= num_pairs)
                assert room_for(num_pairs, num_experts, alignment) == most


@settings(max_examples=50, deadline=None)
@given(routings())
def test_tokens_get_the_weighted_sum_of_their_rows(case: tuple[torch.Tensor, range, int]) -> None:
    ids, experts, alignment = case
    routing = route(ids, experts, alignment)
    y = torch.randn(routing.num_rows, 3)
    y[routing.token < 0] = float("nan")
    weights = torch.rand(ids.shape)

    total = combined(y, routing, weights)

    expected = torch.zeros(len(ids), 3)
    for token, row in enumerate(ids.tolist()):
        for j, e in enumerate(row):
            if e in experts:
                expected[token] += weights[token, j] * y[routing.position[token, j]]
    torch.testing.assert_close(total, expected)
