"""The grouped Triton product against float64, row by row: on a GPU where there is one, else interpreted."""

from __future__ import annotations

import pytest
import torch

from fp8load.runtime.routing import Routing, route

GPU = torch.cuda.is_available()
kernels = pytest.importorskip("fp8load_kernels.gpu.grouped", reason="needs triton", exc_type=ImportError)
DEVICE = "cuda" if GPU else "cpu"
E = 4
EXPERTS = range(3, 3 + E)
SIZES = [(5, 128, 128), (3, 70, 200), (9, 130, 300), (40, 64, 131)]
if GPU:
    SIZES += [(70, 1536, 1000), (300, 4096, 7168), (2000, 768, 2048)]
HARDWARE = 5e-3 if GPU else 1e-6
"""Tensor cores of Hopper add products of FP8 with fewer bits than float32 has."""

LIMITS = {torch.float32: HARDWARE, torch.float16: HARDWARE + 2**-11, torch.bfloat16: HARDWARE + 2**-7}
"""Of a single row, so a rounding's largest error: the interpreter cuts BF16 off where the hardware rounds it."""

BLOCKS = [None, (128, 128), (64, 32), (24, 128)]


def routing_of(num_tokens: int, kind: str, alignment: int) -> Routing:
    rng = torch.Generator().manual_seed(num_tokens)
    found = torch.randint(0, 9, (num_tokens, 2), generator=rng)
    if kind == "one expert":
        found = torch.full_like(found, 4)
    elif kind == "some without":
        found = torch.where(found < 5, 3, 6)
    return route(found.to(DEVICE), EXPERTS, alignment)


def operands(sizes: tuple[int, int, int], block: tuple[int, int] | None, num_inputs: int) -> tuple[torch.Tensor, ...]:
    """Codes of x [S, K] and W [E, N, K], with columns of outliers, and their scales."""
    _, num_rows, num_cols = sizes
    rng = torch.Generator().manual_seed(sum(sizes))
    x = torch.randn(num_inputs, num_cols, generator=rng) * 30
    w = torch.randn(E, num_rows, num_cols, generator=rng) * 30
    x[:, ::31] *= 8
    groups = 1 if block is None else -(-num_cols // block[1])
    grid = (E, num_rows) if block is None else (E, -(-num_rows // block[0]), groups)
    x_scale = (torch.rand(num_inputs, groups, generator=rng) + 0.1) / 100
    w_scale = (torch.rand(grid, generator=rng) + 0.1) / 100
    codes = (each.clamp(-448, 448).to(torch.float8_e4m3fn) for each in (x, w))
    return tuple(each.to(DEVICE) for each in (*codes, x_scale, w_scale))


def expected(x, w, x_scale, w_scale, block) -> torch.Tensor:
    """Every row of x times every expert's weight, dequantized, float64 [E, S, N]."""
    num_rows, num_cols = w.shape[1:]
    left, right = x.double(), w.double()
    if block is None:
        return torch.einsum("sk,enk->esn", left * x_scale.double(), right * w_scale.double()[..., None])
    left = left * x_scale.double().repeat_interleave(block[1], 1)[:, :num_cols]
    wide = w_scale.double().repeat_interleave(block[1], 2)[..., :num_cols]
    right = right * wide.repeat_interleave(block[0], 1)[:, :num_rows]
    return torch.einsum("sk,enk->esn", left, right)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(("kind", "by_token"), [("any", True), ("one expert", True), ("some without", False)])
@pytest.mark.parametrize("sizes", SIZES)
def test_each_row_is_the_product_with_its_experts_weight(sizes, kind: str, by_token: bool, block) -> None:
    routing = routing_of(sizes[0], kind, 32)
    given = operands(sizes, block, sizes[0] if by_token else routing.num_rows)
    dtype = {None: torch.float32, (128, 128): torch.bfloat16}.get(block, torch.float16)
    bias = torch.randn(E, sizes[1], device=DEVICE).to(dtype) if kind == "any" else None
    every = expected(*given, block) + (0 if bias is None else bias.double()[:, None])
    x, w, x_scale, w_scale = given

    y = kernels.grouped_product(x, x_scale, w, w_scale, routing, by_token=by_token, dtype=dtype, block=block, bias=bias)
    columns = x_scale.t().contiguous().t()
    again = kernels.grouped_product(
        x, columns, w, w_scale, routing, by_token=by_token, dtype=dtype, block=block, bias=bias
    )

    assert (y.dtype, y.shape) == (dtype, (routing.num_rows, sizes[1]))
    mine = (routing.expert >= 0).nonzero()[:, 0]
    reference = every[routing.expert[mine], routing.token[mine] if by_token else mine]
    assert len(mine)
    error = (y[mine].double() - reference).norm(dim=1) / reference.norm(dim=1)
    assert error.max() < LIMITS[dtype]
    assert torch.equal(y[mine], again[mine])


@pytest.mark.parametrize("alignment", [16, 64, 128])
def test_rows_may_be_aligned_to_more_than_a_tile(alignment: int) -> None:
    sizes = (6, 64, 128)
    x, w, x_scale, w_scale = operands(sizes, None, 6)
    routing = routing_of(6, "any", alignment)

    y = kernels.grouped_product(x, x_scale, w, w_scale, routing, by_token=True, dtype=torch.float32)

    mine = routing.expert >= 0
    reference = expected(x, w, x_scale, w_scale, None)[routing.expert[mine], routing.token[mine]]
    assert (y[mine] - reference).norm() < HARDWARE * reference.norm()


def test_rows_of_a_grid_are_looked_up_where_parts_end_within_a_block() -> None:
    block, sizes = (64, 128), (5, 100, 256)
    x, w, x_scale, _ = operands(sizes, block, 5)
    w_scale = torch.rand(E, 3, 2, device=DEVICE)
    rows = torch.tensor([*[0] * 50, *[1] * 14, *[2] * 36], dtype=torch.int32, device=DEVICE)
    routing = routing_of(5, "any", 16)

    y = kernels.grouped_product(
        x, x_scale, w, w_scale, routing, by_token=True, dtype=torch.float32, block=block, scale_row_N=rows
    )

    mine = routing.expert >= 0
    reference = expected(x, w, x_scale, w_scale[:, rows], (1, 128))[routing.expert[mine], routing.token[mine]]
    assert (y[mine] - reference).norm() < HARDWARE * reference.norm()


def test_no_tokens() -> None:
    x, w, x_scale, w_scale = operands((0, 64, 128), None, 0)
    y = kernels.grouped_product(x, x_scale, w, w_scale, routing_of(0, "any", 16), by_token=True, dtype=torch.float32)
    assert y.shape == (0, 64)


@pytest.mark.parametrize("blocks", [False, True])
def test_tiles_are_powers_of_two_that_rows_are_aligned_to(*, blocks: bool) -> None:
    from fp8load_kernels.grouped.triton_grouped import rows_of_tile

    for num_pairs in (1, 8, 16, 17, 500, 4000, 8192, 1 << 20):
        tile, alignment = kernels.tile_of_groups(num_pairs, 64, blocks=blocks), rows_of_tile(num_pairs, (64, 1, 1))
        assert alignment % tile.m == 0
        assert 16 <= tile.m <= alignment <= 128
