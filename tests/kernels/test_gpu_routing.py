"""Sorting, fetching and summing in Triton against torch's operations: on a GPU where there is one, else interpreted."""

from __future__ import annotations

import pytest
import torch

from fp8load.runtime.routing import Routing, combined, route

GPU = torch.cuda.is_available()
kernels = pytest.importorskip("fp8load_kernels.gpu.routing", reason="needs triton", exc_type=ImportError)
DEVICE = "cuda" if GPU else "cpu"
CASES = [
    (1, 8, range(256)), (5, 2, range(4)), (130, 2, range(8)), (33, 3, range(5)), (7, 2, range(2, 4)), (9, 1, range(1)),
    (64, 16, range(16)),
]  # fmt: skip


def ids(num_tokens: int, k: int, experts: range, kind: str) -> torch.Tensor:
    """Experts of this rank and of others."""
    rng = torch.Generator().manual_seed(num_tokens)
    top = experts.stop + (0 if kind == "all here" else 3)
    low = 0 if kind != "all here" else experts.start
    found = torch.randint(low, top, (num_tokens, k), generator=rng)
    return {"one expert": torch.full_like(found, experts.start), "nobody": torch.full_like(found, top)}.get(kind, found)


@pytest.mark.parametrize("alignment", [1, 16, 128])
@pytest.mark.parametrize("kind", ["all here", "some elsewhere", "one expert", "nobody"])
@pytest.mark.parametrize(("num_tokens", "k", "experts"), CASES)
def test_one_launch_sorts_as_torch_does(num_tokens: int, k: int, experts: range, kind: str, alignment: int) -> None:
    given = ids(num_tokens, k, experts, kind)

    assert_same(kernels.route(given.to(DEVICE), experts, alignment), route(given, experts, alignment))


def assert_same(ours: Routing, theirs: Routing) -> None:
    assert ours.alignment == theirs.alignment
    for name in ("expert", "token", "starts", "ends", "position"):
        mine, other = (torch.as_tensor(getattr(each, name)).cpu() for each in (ours, theirs))
        assert mine.dtype == other.dtype == torch.int32
        assert torch.equal(mine, other), name


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize(("num_tokens", "k", "experts", "alignment"), [
    (300, 2, range(8), 16), (257, 3, range(5, 105), 1), (600, 1, range(2, 3), 128), (1000, 8, range(256), 64),
])  # fmt: skip
def test_many_pairs_are_sorted_by_several_programs(
    num_tokens: int, k: int, experts: range, alignment: int, dtype: torch.dtype
) -> None:
    given = ids(num_tokens, k, experts, "some elsewhere").to(DEVICE, dtype)
    assert given.numel() > kernels.FEW_PAIRS

    assert_same(kernels.route(given, experts, alignment), route(given, experts, alignment))


def test_more_experts_than_fit_go_to_torch() -> None:
    experts = range(kernels.MOST_EXPERTS + 1)
    given = ids(5, 2, experts, "some elsewhere").to(DEVICE)

    assert_same(kernels.route(given, experts, 16), route(given, experts, 16))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("kind", ["all here", "some elsewhere", "nobody"])
@pytest.mark.parametrize(("num_tokens", "num_cols"), [(1, 64), (5, 1100), (33, 7)])
def test_rows_are_summed_up_as_torch_does(num_tokens: int, num_cols: int, kind: str, dtype: torch.dtype) -> None:
    given = ids(num_tokens, 3, range(2, 6), kind).to(DEVICE)
    routing = route(given, range(2, 6), 16)
    y = torch.randn(routing.num_rows, num_cols, device=DEVICE).to(dtype)
    y[routing.token < 0] = float("nan")  # what nobody's rows hold is never read
    weights = torch.rand(num_tokens, 3, device=DEVICE)

    total = kernels.combine(y, routing, weights)

    assert total.dtype == torch.float32
    assert total.isfinite().all()
    torch.testing.assert_close(total, combined(y, routing, weights), rtol=1e-6, atol=1e-6)
    assert torch.equal(total, kernels.combine(y, routing, weights))


@pytest.mark.parametrize(("num_cols", "groups"), [(128, 1), (1000, 8), (5000, 40)])
def test_rows_are_fetched_with_their_scales(num_cols: int, groups: int) -> None:
    routing = route(ids(9, 2, range(2, 6), "some elsewhere").to(DEVICE), range(2, 6), 16)
    codes = torch.randn(9, num_cols, device=DEVICE).to(torch.float8_e4m3fn)
    scale = torch.rand(groups, 9, device=DEVICE).t()
    room = torch.zeros(groups, routing.num_rows, device=DEVICE).t()

    rows, scales = kernels.fetch(codes, scale, routing, room)

    mine = routing.token >= 0
    assert torch.equal(rows[mine].view(torch.uint8), codes.view(torch.uint8)[routing.token[mine]])
    assert torch.equal(scales[mine], scale[routing.token[mine]])
    assert scales.data_ptr() == room.data_ptr()
    assert (room[~mine] == 0).all()


def test_no_tokens_and_no_columns() -> None:
    routing = kernels.route(torch.zeros(0, 2, dtype=torch.int64, device=DEVICE), range(4), 16)

    assert (routing.num_rows, routing.position.shape) == (0, (0, 2))
    assert kernels.combine(torch.zeros(0, 8, device=DEVICE), routing, torch.zeros(0, 2, device=DEVICE)).shape == (0, 8)
