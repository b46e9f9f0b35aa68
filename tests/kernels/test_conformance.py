"""What every backend promises, for whatever is installed: laws of layers that are made and filled as engines do it.

Inputs are random in every run; a failure prints the seed, and FP8LOAD_SEED=<seed> repeats it.
"""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod

import pytest
import torch

from fp8load.errors import BackendError
from fp8load.runtime.backend import LinearWeights, No
from fp8load.runtime.linear import ScaledLinear
from fp8load.scheme import Role
from fp8load_kernels.bench.accuracy import TOLERANCE
from kernels.layers import (
    DEVICES,
    FULL,
    SHAPES,
    Case,
    Expected,
    Shape,
    addresses,
    cases,
    decoded,
    fill,
    filled,
    made,
    stored,
    tensor_of,
)
from waiting import no_waiting

SEED = int(os.environ.get("FP8LOAD_SEED") or secrets.randbits(31))
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
TOKENS = (1, 2, 15, 16, 17, 33, 64, 65, 200)
MANY_TOKENS = (512, 4096)
ROUNDING = {torch.bfloat16: 5e-3, torch.float16: 1e-3, torch.float32: 1e-5}
"""Relative Frobenius norm of the error of a product that is summed in float32, by the dtype of its result. BF16: the
result is rounded, and the weight may be once more, where a kernel unpacks it to the input's dtype."""

SMALL = tuple(shape.small() for shape in SHAPES)
BY_NAME = {shape.name: shape for shape in SMALL}
PARTED = BY_NAME["deepseek-v3.qkv_a-2112"]
"""Parts of which one ends within a block."""

ODD = Shape("qwen2.5-vl.gate_up-down", "merged", (3420, 3420), 3420).small()
"""No size a multiple of 8: rows of one layer of the vision tower, columns of another."""

ALONE, FUSED = BY_NAME["deepseek-v3.kv_a-576"], BY_NAME["phi-3-mini.qkv"]
ONE_ROW = BY_NAME["qwen2-moe.shared_expert_gate"]

ALL = cases()


def each(shapes: Sequence[Shape], *, device: str = "") -> list[object]:
    """Parameters (case, shape), those that the backend takes; a skipped one in the place of what needs a GPU."""
    found = [
        pytest.param(case, shape, id=f"{case}-{shape.name}", marks=[pytest.mark.gpu] * (case.device == "cuda"))
        for case in ALL
        for shape in shapes
        if case.supports(shape) and case.device in (device or DEVICES)
    ]
    if "cuda" not in DEVICES:
        skip = pytest.mark.skip(reason="needs a CUDA device")
        found.append(pytest.param(None, None, id="cuda", marks=[pytest.mark.gpu, skip]))
    return found


@pytest.fixture(autouse=True)
def _prints_the_seed() -> Iterator[None]:
    """And computes in one thread: threads of small products on a busy machine wait for each other most of the time."""
    print(f"FP8LOAD_SEED={SEED}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tokens(shape: tuple[int, ...], device: str, dtype: torch.dtype, salt: int = 0) -> torch.Tensor:
    """Normal, with channels that are eight times as large, as trained models have some."""
    generator = torch.Generator(device).manual_seed(SEED + salt + prod(shape))
    x = torch.randn(shape, generator=generator, device=device)
    x[..., salt % 7 :: 97] *= 8
    return x.to(dtype)


def expect_near(expected: Expected, x: torch.Tensor, y: torch.Tensor) -> None:
    """y is the product with the dequantized weight, of the input quantized as the scheme says or as it is."""
    num_rows, num_cols = expected.weights.shape
    assert tuple(y.shape) == (*x.shape[:-1], num_rows)
    assert y.isfinite().all()
    errors = expected.errors(x.reshape(-1, num_cols), y.reshape(-1, num_rows))
    limit = ROUNDING[y.dtype]
    if errors[0] < errors[1] and y.is_cuda and expected.weights.scheme.input is not None:
        limit = TOLERANCE  # tensor cores add products of FP8 with fewer bits
    assert min(errors) <= limit, f"{errors} of the input quantized and as it is, {tuple(x.shape)}, {x.dtype}"


def expect_dtype(layer: ScaledLinear, x: torch.Tensor, y: torch.Tensor) -> None:
    """The result has the input's dtype; `reference` promises float32."""
    assert y.dtype == (torch.float32 if layer.backend.name == "reference" else x.dtype)


@pytest.mark.parametrize(("case", "shape"), each(SMALL))
def test_the_product_is_near_the_truth_for_any_number_of_tokens(case: Case, shape: Shape) -> None:
    """A third of the numbers of tokens for each shape on the CPU: over the shapes, each with every dtype."""
    weights = stored(case.scheme, shape, case.device, SEED)
    nth = SMALL.index(shape)
    layers = {bias: filled(case, shape, weights, bias=bias) for bias in (False, True)}
    truth = {bias: Expected.of(weights, bias=bias) for bias in layers}
    all_of_them = [*enumerate(TOKENS + MANY_TOKENS)]
    for i, num_tokens in all_of_them if case.device == "cuda" else all_of_them[nth % 3 : len(TOKENS) : 3]:
        biased = (nth + i) // 2 % 2 == 0
        x = tokens((num_tokens, shape.cols), case.device, DTYPES[(nth // 3 + i // 3) % 3], salt=i)
        y = layers[biased](x)
        expect_dtype(layers[biased], x, y)
        expect_near(truth[biased], x, y)


@pytest.mark.parametrize(("case", "shape"), each(FULL, device="cuda"))
def test_the_product_is_near_the_truth_in_full_size(case: Case, shape: Shape) -> None:
    weights = stored(case.scheme, shape, case.device, SEED)
    layer, truth = filled(case, shape, weights), Expected.of(weights, large=True)
    for i, num_tokens in enumerate((1, 17, 65, 512, 4096)):
        x = tokens((num_tokens, shape.cols), case.device, torch.bfloat16, salt=i)
        expect_near(truth, x, layer(x))


@pytest.mark.parametrize(("case", "shape"), each([PARTED, ODD, FUSED]))
def test_what_was_loaded_is_what_files_mean(case: Case, shape: Shape) -> None:
    weights = stored(case.scheme, shape, case.device, SEED)
    expected = decoded(weights)

    found = filled(case, shape, weights).dequantize().cpu().double()

    assert (found - expected).abs().max() <= 3e-7 * expected.abs().max()


def apart(x_MK: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The same numbers in memory that has NaNs between and around them."""
    num_tokens, num_cols = x_MK.shape
    lost = torch.nan
    wide = x_MK.new_full((num_tokens + 2, num_cols + 7), lost)
    wide[1:-1, 3 : 3 + num_cols] = x_MK
    yield "sliced", wide[1:-1, 3 : 3 + num_cols]
    rows = x_MK.new_full((2 * num_tokens, num_cols), lost)
    rows[::2] = x_MK
    yield "every second row", rows[::2]
    columns = x_MK.new_full((num_tokens, 2 * num_cols), lost)
    columns[:, ::2] = x_MK
    yield "every second column", columns[:, ::2]
    yield "transposed", x_MK.t().contiguous().t()


@pytest.mark.parametrize(("case", "shape"), each([PARTED, ODD]))
def test_inputs_of_any_axes_and_strides(case: Case, shape: Shape) -> None:
    weights = stored(case.scheme, shape, case.device, SEED)
    layer, truth, cols = filled(case, shape, weights), Expected.of(weights), shape.cols
    for i, dtype in enumerate(DTYPES):
        for lead in ((), (1,), (3, 5), (2, 3, 1), (2, 1, 35)):
            x = tokens((*lead, cols), case.device, dtype, salt=i)
            expect_near(truth, x, layer(x))
        for lead in ((0,), (2, 0), (0, 3, 1)):
            x = tokens((*lead, cols), case.device, dtype)
            y = layer(x)
            assert tuple(y.shape) == (*lead, sum(shape.rows))
            expect_dtype(layer, x, y)
        for num_tokens in (5, 70):
            for how, x in apart(tokens((num_tokens, cols), case.device, dtype, salt=i)):
                assert layer(x).isfinite().all(), how
                expect_near(truth, x, layer(x))
        x = tokens((4, 6, cols), case.device, dtype, salt=i).transpose(0, 1)
        expect_near(truth, x, layer(x))
        expect_near(truth, x[:1, :1].expand(3, 2, cols), layer(x[:1, :1].expand(3, 2, cols)))


@contextmanager
def poisoned() -> Iterator[None]:
    """Within, memory that is allocated and not initialised holds NaN, or the largest integer."""
    before = torch.are_deterministic_algorithms_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of operations that have no deterministic form: only the filling is wanted
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


def freed(size: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    """Leave NaNs in memory that the caching allocator hands out for the next tensors of this size."""
    left = [torch.full(size, torch.nan, dtype=dtype, device=device) for _ in range(4)]
    if device == "cuda":
        torch.cuda.synchronize()
    del left


@pytest.mark.parametrize(("case", "shape"), each([PARTED, ODD, ONE_ROW]))
def test_nothing_of_uninitialised_memory_comes_out(case: Case, shape: Shape) -> None:
    weights = stored(case.scheme, shape, case.device, SEED)
    truth = Expected.of(weights)
    with poisoned():
        layer = filled(case, shape, weights)
        for i, num_tokens in enumerate((1, 17, 65, 130)):
            x = tokens((num_tokens, shape.cols), case.device, DTYPES[i % 3])
            expect_near(truth, x, layer(x))
    layer = filled(case, shape, weights)
    for num_tokens in (1, 17, 65, 130):
        for dtype in DTYPES:
            x = tokens((num_tokens, shape.cols), case.device, dtype)
            for size in ((num_tokens, sum(shape.rows)), (num_tokens, shape.cols)):
                freed(size, dtype, case.device)
                freed(size, torch.float32, case.device)
            assert layer(x).isfinite().all(), (num_tokens, dtype)


@pytest.mark.parametrize(("case", "shape"), each([PARTED, ODD]))
def test_the_same_input_gives_the_same_bits(case: Case, shape: Shape) -> None:
    weights = stored(case.scheme, shape, case.device, SEED)
    layer, other = filled(case, shape, weights), filled(case, shape, weights)
    for i, num_tokens in enumerate((1, 17, 65, 200)):
        x = tokens((num_tokens, shape.cols), case.device, DTYPES[i % 3])
        y = layer(x)
        assert torch.equal(layer(x), y)
        assert torch.equal(other(x), y)


def held(layer: ScaledLinear) -> dict[str, int]:
    assert layer._prepared is not None
    return dict(addresses(layer._prepared))


def mixed(old: LinearWeights, new: LinearWeights, i: int, roles: Sequence[Role]) -> LinearWeights:
    """`old` with one part's tensors of some roles taken from `new`."""
    changed: dict[str, torch.Tensor] = {}
    for role in roles:
        theirs, mine = tensor_of(new, role), tensor_of(old, role)
        if theirs is None or mine is None:
            continue
        part = old.parts[i]
        rows = {Role.WEIGHT: part.rows, Role.WEIGHT_SCALE: part.scale_rows}.get(role, slice(i, i + 1))
        copied = mine.clone()
        copied[rows] = theirs[rows]
        changed[role.value] = copied
    return replace(old, **changed)


SCALES = (Role.WEIGHT_SCALE, Role.WEIGHT_GLOBAL_SCALE, Role.INPUT_SCALE, Role.INPUT_GLOBAL_SCALE)


@pytest.mark.parametrize(("case", "shape"), each([PARTED, ODD, FUSED, ALONE]))
def test_tensors_that_are_loaded_again_are_used_where_they_lay(case: Case, shape: Shape) -> None:
    first, second, third = (stored(case.scheme, shape, case.device, SEED + i) for i in range(3))
    layer = filled(case, shape, first, bias=False)
    inputs = [tokens((m, shape.cols), case.device, DTYPES[i]) for i, m in enumerate((1, 40, 70))]
    before = [layer(x) for x in inputs]
    places = held(layer)
    layer.finalize().finalize()
    assert held(layer) == places
    assert all(torch.equal(layer(x), y) for x, y in zip(inputs, before, strict=True))

    fill(layer, shape, second)
    layer.finalize()
    expect_same(layer, filled(case, shape, second, bias=False), inputs, places)
    assert not any(torch.equal(layer(x), y) for x, y in zip(inputs, before, strict=True))

    last, now = len(shape.rows) - 1, second
    for roles in ((Role.WEIGHT,), SCALES, (Role.WEIGHT, *SCALES)):
        donor = third if now is second else first
        now = mixed(now, donor, last, roles)
        fill(layer, shape, donor, [last], *roles)  # and no finalize: a forward sees it by itself
        fresh = made(case, shape, bias=False)
        fill(fresh, shape, now, list(range(len(shape.rows))))
        expect_same(layer, fresh.finalize(), inputs, places)


def expect_same(layer: ScaledLinear, fresh: ScaledLinear, inputs: list[torch.Tensor], places: dict[str, int]) -> None:
    for x in inputs:
        assert torch.equal(layer(x), fresh(x))
    assert held(layer) == places


@pytest.mark.parametrize(("case", "shape"), each([PARTED, ODD], device="cuda"))
def test_a_captured_graph_replays_with_new_weights(case: Case, shape: Shape) -> None:
    first, second = (stored(case.scheme, shape, case.device, SEED + i) for i in range(2))
    for num_tokens in (1, 40, 200):
        layer = filled(case, shape, first)
        x = tokens((num_tokens, shape.cols), case.device, torch.bfloat16)
        layer(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = layer(x)
        graph.replay()
        assert torch.equal(y, layer(x))
        fill(layer, shape, second)
        layer.finalize()
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(y, filled(case, shape, second)(x))


@pytest.mark.parametrize(("case", "shape"), each([PARTED, ODD], device="cuda"))
def test_a_call_does_not_wait_for_the_device(case: Case, shape: Shape) -> None:
    layer = filled(case, shape, stored(case.scheme, shape, case.device, SEED))
    for i, num_tokens in enumerate((1, 40, 200, 512)):
        x = tokens((num_tokens, shape.cols), case.device, DTYPES[i % 3])
        layer(x)  # the first one compiles, and asks the device what it is
        with no_waiting():
            layer(x)


@pytest.mark.parametrize("case", [pytest.param(case, id=str(case)) for case in ALL])
def test_a_forced_backend_runs_or_is_named_in_the_refusal(case: Case) -> None:
    for shape in (PARTED, ODD):
        layer = made(case, shape)
        if case.supports(shape):
            assert layer.backend.name == case.backend.name
            assert len(layer.why) == 1
            assert layer.why[0].startswith(f"{case.backend.name}: forced")
            continue
        verdict = case.backend.supports(case.scheme, layer.shape, case.here)
        assert isinstance(verdict, No)
        fill(layer, shape, stored(case.scheme, shape, case.device, SEED))
        with pytest.raises(BackendError, match=f"{case.backend.name} was requested and cannot run") as refused:
            layer.finalize()
        assert refused.value.code == "BKD801"
        assert shape.name in str(refused.value)
        assert f"{case.backend.name}: {verdict.reason}" in refused.value.expected


@pytest.mark.parametrize("case", [
    pytest.param(case, id=f"{case.device}-{case.kind}") for case in {(it.device, it.kind): it for it in ALL}.values()
])  # fmt: skip
def test_why_tells_who_refused_and_ends_with_the_one_that_runs(case: Case) -> None:
    layer = made(case, PARTED, forced=False)
    asked = [it for it in ALL if (it.device, it.kind) == (case.device, case.kind)]
    names = [it.backend.name for it in asked]
    runs = next(it.backend.name for it in asked if it.supports(PARTED))

    assert layer.backend.name == runs
    assert [line.partition(":")[0] for line in layer.why] == names[: names.index(runs) + 1]
    assert layer.why[-1].startswith(f"{runs}: supports it")
