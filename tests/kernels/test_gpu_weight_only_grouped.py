"""The grouped weight-only product in Triton against float64, row by row: on a GPU where there is one; interpreted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fp8load.dtypes import DType
from fp8load.runtime.grouped import GroupedPrepared, StackWeights
from fp8load.runtime.routing import Routing, route
from fp8load_kernels.backends.weight_only import coded
from fp8load_kernels.bench.accuracy import _stacked
from fp8load_kernels.bench.exact import exact_weight
from fp8load_kernels.grouped.triton_grouped import rows_of_tile
from fp8load_kernels.grouped.weight_only_grouped import WeightOnlyGrouped
from kernels.coded import DEVICE, SCHEMES, made, tokens

GPU = torch.cuda.is_available()
kernels = pytest.importorskip("fp8load_kernels.gpu.weight_only_grouped", reason="needs triton", exc_type=ImportError)
E = 4
EXPERTS = range(3, 3 + E)
SIZES = [(5, 128, 256), (3, 70, 320), (9, 100, 586), (40, 64, 1024)]
if GPU:
    SIZES += [(1, 5760, 2880), (70, 1536, 1000), (300, 4096, 7168)]
LIMITS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.2e-2}
"""Of a single row, so a rounding's largest error and not its mean."""

BACKEND = WeightOnlyGrouped()


def routing_of(num_tokens: int, kind: str, alignment: int = 16) -> Routing:
    """Two experts for each token, some of them another rank's."""
    found = torch.randint(0, 9, (num_tokens, 2), generator=torch.Generator().manual_seed(num_tokens))
    if kind == "one expert":
        found = torch.full_like(found, 4)
    elif kind == "some without":
        found = torch.where(found < 5, 3, 6)
    return route(found.to(DEVICE), EXPERTS, alignment)


def stack_of(name: str, num_rows: int, num_cols: int) -> StackWeights:
    """Experts whose parts have scales of their own."""
    rows = (num_rows - 30, 20, 10)
    return _stacked([made(name, rows, num_cols, seed=seed) for seed in range(E)])


def product(prepared: GroupedPrepared, x: torch.Tensor, routing: Routing, *, by_token: bool = True, **more: object):
    """As the backend calls it."""
    w = coded(prepared.weights.scheme, prepared.weights.shape[1:], prepared)
    return kernels.grouped_weight_only(x, w._replace(**more.pop("form", {})), routing, by_token=by_token, **more)


def expected(weights: StackWeights, x: torch.Tensor) -> torch.Tensor:
    """Every row of x through every expert, float64 [E, S, N]."""
    each = [weights.expert(at) for at in range(E)]
    w_ENK = torch.stack([torch.cat([exact_weight(one, i) for i in range(len(one.parts))]) for one in each])
    return torch.einsum("sk,enk->esn", x.double(), w_ENK)


def check(y: torch.Tensor, every: torch.Tensor, routing: Routing, *, by_token: bool = True) -> None:
    mine = (routing.expert >= 0).nonzero()[:, 0]
    reference = every[routing.expert[mine], routing.token[mine] if by_token else mine]
    assert len(mine)
    error = (y[mine].double() - reference).norm(dim=1) / reference.norm(dim=1)
    assert error.max() < LIMITS[y.dtype]


CASES = [
    (sizes, dtype) for i, sizes in enumerate(SIZES) for dtype in (torch.bfloat16, torch.float16, torch.float32)
    if dtype == torch.bfloat16 or i == 1  # interpreting takes its time, and so does compiling
]  # fmt: skip


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(("sizes", "dtype"), CASES)
def test_each_row_is_the_product_with_its_experts_weight(
    sizes: tuple[int, int, int], name: str, dtype: torch.dtype
) -> None:
    num_tokens, num_rows, num_cols = sizes
    weights, x = stack_of(name, num_rows, num_cols), tokens(num_tokens, num_cols, dtype)
    routing = routing_of(num_tokens, "any", rows_of_tile(2 * num_tokens, weights.shape))
    bias = torch.linspace(-5, 5, E * num_rows, device=DEVICE).view(E, num_rows).to(dtype)
    prepared = BACKEND.prepare(weights)

    y = product(prepared, x, routing, bias=bias)
    again = product(prepared, x, routing, bias=bias)

    assert (y.dtype, y.shape) == (dtype, (routing.num_rows, num_rows))
    mine = routing.expert >= 0
    assert torch.equal(y[mine], again[mine])
    check(y, expected(weights, x) + bias.double()[:, None], routing)


@pytest.mark.parametrize("kind", ["one expert", "some without"])
@pytest.mark.parametrize("by_token", [True, False])
@pytest.mark.parametrize("name", ["fp8-block", "nvfp4"])
def test_any_routing_of_tokens_and_of_rows(name: str, kind: str, *, by_token: bool) -> None:
    weights, routing = stack_of(name, 100, 320), routing_of(20, kind, 32)
    x = tokens(20 if by_token else routing.num_rows, 320, torch.bfloat16)

    y = product(BACKEND.prepare(weights), x, routing, by_token=by_token)

    check(y, expected(weights, x), routing, by_token=by_token)


@pytest.mark.parametrize("alignment", [16, 64, 128])
def test_rows_may_be_aligned_to_more_than_a_tile(alignment: int) -> None:
    weights, x, routing = stack_of("mxfp4", 64, 256), tokens(6, 256, torch.bfloat16), routing_of(6, "any", alignment)

    check(product(BACKEND.prepare(weights), x, routing), expected(weights, x), routing)


@pytest.mark.parametrize("name", ["fp8-channel", "fp8-block"])
def test_bytes_are_unpacked_where_the_hardware_converts_none(name: str) -> None:
    """What runs before compute capability 8.9."""
    weights, x, routing = stack_of(name, 100, 320), tokens(5, 320, torch.bfloat16), routing_of(5, "any")
    form = {"kind": "e4m3", "codes": weights.weight.view(torch.uint8)}

    check(product(BACKEND.prepare(weights), x, routing, form=form), expected(weights, x), routing)


@pytest.mark.parametrize("name", ["fp8-block", "mxfp8", "mxfp4", "int4-group", "int4-wide-group", "fp8-channel"])
@pytest.mark.parametrize("num_pairs", [100, 250, 1000])
def test_tiles_of_every_size(name: str, num_pairs: int) -> None:
    weights, x, routing = stack_of(name, 140, 576), tokens(3, 576, torch.float16), routing_of(3, "any", 128)

    check(product(BACKEND.prepare(weights), x, as_if(routing, num_pairs)), expected(weights, x), routing)


def as_if(routing: Routing, num_pairs: int) -> Routing:
    """Of so many pairs, which decides about the tile."""
    return replace(routing, position=routing.position.flatten()[:1].expand(num_pairs, 1))


@pytest.mark.parametrize("num_pairs", [8, 1000])
def test_scales_apart_in_memory_are_read_as_bytes(num_pairs: int) -> None:
    """A view of a larger stack: no words of four scales."""
    weights = stack_of("nvfp4", 64, 256)
    wide = torch.zeros(E, 64, 20, dtype=torch.uint8, device=DEVICE)
    wide[..., :16] = weights.weight_scale.view(torch.uint8)
    apart = replace(weights, weight_scale=wide[..., :16].view(torch.float8_e4m3fn))
    x, routing = tokens(3, 256, torch.bfloat16), routing_of(3, "any", 128)

    y, same = (product(BACKEND.prepare(each), x, as_if(routing, num_pairs)) for each in (apart, weights))

    mine = routing.expert >= 0
    assert torch.equal(y[mine], same[mine])
    check(y, expected(weights, x), routing)


def test_no_tokens() -> None:
    y = product(BACKEND.prepare(stack_of("mxfp4", 64, 256)), tokens(0, 256, torch.bfloat16), routing_of(0, "any"))

    assert y.shape == (0, 64)


@pytest.mark.parametrize("name", ["fp8-channel", "mxfp4"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_tiles_are_powers_of_two_that_rows_are_aligned_to_and_fit(name: str, dtype: torch.dtype) -> None:
    prepared = BACKEND.prepare(stack_of(name, 64, 256))
    w = coded(prepared.weights.scheme, prepared.weights.shape[1:], prepared)

    for num_pairs in (1, 8, 16, 17, 500, 4000, 8192, 1 << 20):
        for large in (True, False):
            tile = kernels.tile_of_groups(num_pairs, 64, w, dtype, large=large)
            assert rows_of_tile(num_pairs, (64, 1, 1)) % tile.m == 0
            assert 16 <= tile.m <= 128
            stage = (tile.m * dtype.itemsize + tile.n / w.per_byte) * tile.k
            assert stage * tile.num_stages < (227 if large else 99) * 1024


def test_factors_are_of_the_second_level_and_of_rows() -> None:
    weights = stack_of("int4-channel-two-levels", 64, 256)
    factor = BACKEND.prepare(weights).row_factor

    levels = weights.weight_global_scale[:, [0] * 34 + [1] * 20 + [2] * 10]
    assert torch.equal(factor, weights.weight_scale.reshape(E, 64) * levels)
    assert BACKEND.prepare(stack_of("mxfp4", 64, 256)).row_factor is None
    assert weights.scheme.weight.dtype is DType.I4
