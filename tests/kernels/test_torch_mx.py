"""`torch_mx` without a Blackwell GPU: what torch is handed is read back by an own decoder, and torch checks its shapes.

No product of torch's runs here: whether the kernels behind it compute what the arguments say is asked where there is
such a GPU (test_gpu_torch_mx.py), and nobody has run that so far.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fp8load.dtypes import DType
from fp8load.runtime.backend import LinearWeights, Part
from fp8load.scheme import LinearScheme, SecondLevel
from fp8load.swizzle import padded_shape, row_major
from fp8load_kernels.backends.torch_mx import TorchMX
from fp8load_kernels.bench.operands import random_input, random_weights
from fp8load_kernels.bench.schemes import COMMON
from fp8load_kernels.e2m1 import pack
from fp8load_kernels.quantize import quantize_input
from fp8load_kernels.swizzle import swizzled
from kernels.grids import E2M1, E4M3

MXFP8, MXFP4, NVFP4 = COMMON["MXFP8"], COMMON["MXFP4"], COMMON["NVFP4"]
DIVIDES = SecondLevel(dtype=DType.F32, divides=True)
SCHEMES = {
    "MXFP8": MXFP8, "MXFP4": MXFP4, "NVFP4": NVFP4,
    "NVFP4 by reciprocals": replace(NVFP4, second_level=DIVIDES, input_global=DIVIDES),
    "NVFP4 of one level": replace(NVFP4, second_level=None, input_global=None),
    "MXFP4, exponents in U8": replace(MXFP4, weight=replace(MXFP4.weight, scale_dtype=DType.U8)),
}  # fmt: skip
EVERY_SCHEME = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
BACKEND = TorchMX()


def numbers(codes: torch.Tensor) -> np.ndarray:
    """Codes [M, K], or two in a byte, as float64 [M, K]; the low half first."""
    data = codes.contiguous().view(torch.uint8).numpy()
    if codes.dtype != torch.float4_e2m1fn_x2:
        return np.where(data & 128, -1, 1) * E4M3[data & 127]
    halves = np.stack([data & 15, data >> 4], -1).reshape(len(data), -1)
    return np.where(halves & 8, -1, 1) * E2M1[halves & 7]


def scales(flat: torch.Tensor, shape: tuple[int, int], cols: int) -> np.ndarray:
    """Scales in tiles, for each of the elements [M, K]; float64. They are as many as torch asks for."""
    num_rows, num_groups = shape[0], -(-shape[1] // cols)
    height, width = padded_shape((num_rows, num_groups))
    assert flat.numel() == height * width
    assert flat.is_contiguous()
    data = row_major(flat.view(torch.uint8).numpy().tobytes(), width)
    assert not data[num_rows:].any()
    assert not data[:, num_groups:].any()
    logical = data[:num_rows, :num_groups]
    values = np.exp2(logical.astype(np.float64) - 127) if cols == 32 else E4M3[logical & 127]
    return np.repeat(values, cols, 1)[:, : shape[1]]


class Fake:
    """torch's product, from what torch is given: it refuses what torch would, and keeps the calls."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self, mat_a, mat_b, scale_a, recipe_a, scale_b, recipe_b, swizzle_a=None, swizzle_b=None, bias=None,
        output_dtype=torch.bfloat16,
    ) -> torch.Tensor:  # fmt: skip
        kinds, tiles = torch.nn.functional.ScalingType, torch.nn.functional.SwizzleType
        self.calls.append({
            "operands": (mat_a, mat_b), "scales": (scale_a, scale_b), "bias": bias, "dtype": output_dtype,
            "words": (scale_a, recipe_a, scale_b, recipe_b, swizzle_a, swizzle_b),
        })  # fmt: skip
        assert mat_a.dtype == mat_b.dtype
        assert mat_a.is_contiguous()
        assert mat_b.t().is_contiguous()
        assert mat_a.shape[1] % 16 == mat_b.shape[0] % 16 == mat_b.shape[1] % 16 == 0
        assert (recipe_a, swizzle_a) == (recipe_b, swizzle_b)
        two = isinstance(scale_a, list)
        if two:
            assert recipe_a == [kinds.BlockWise1x16, kinds.TensorWise]
            assert swizzle_a == [tiles.SWIZZLE_32_4_4, tiles.NO_SWIZZLE]
            assert [len(both) for both in (scale_a, scale_b)] == [2, 2]
            assert {one.dtype for one in (scale_a[1], scale_b[1])} == {torch.float32}
        else:
            assert (recipe_a, swizzle_a) == (kinds.BlockWise1x32, tiles.SWIZZLE_32_4_4)
        cols, wanted = (16, torch.float8_e4m3fn) if two else (32, torch.float8_e8m0fnu)
        real = []
        for codes, given in ((mat_a, scale_a), (mat_b.t(), scale_b)):
            values, block = numbers(codes), given[0] if two else given
            assert block.dtype == wanted
            real.append(values * scales(block, values.shape, cols) * (given[1].item() if two else 1))
        return torch.from_numpy(real[0] @ real[1].T).to(output_dtype)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    found = Fake()
    monkeypatch.setattr(torch.nn.functional, "scaled_mm", found)
    return found


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(scheme: LinearScheme, rows: tuple[int, ...] = (48,), num_cols: int = 96, seed: int = 0) -> LinearWeights:
    return random_weights(scheme, [(str(i), n) for i, n in enumerate(rows)], num_cols, generator(seed))


def truth(weights: LinearWeights, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """The product of the quantized operands, float64."""
    prepared = BACKEND.prepare(weights)
    quantized = quantize_input(x.reshape(-1, x.shape[-1]), weights.scheme, None, prepared.input_global_scale)
    y = quantized.dequantize().double() @ weights.dequantize().double().T
    return (y if bias is None else y + bias.double()).reshape(*x.shape[:-1], -1)


def near(y: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    assert (y.double() - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("shape", [(1, 1), (128, 4), (5, 3), (130, 9), (256, 8), (300, 17)])
def test_swizzled_scales_are_read_back_into_rows(shape: tuple[int, int]) -> None:
    scale = torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator())
    tiles = swizzled(scale)
    height, width = padded_shape(shape)
    rows = row_major(tiles.numpy().tobytes(), width)

    assert np.array_equal(rows[: shape[0], : shape[1]], scale.numpy())
    assert rows.shape == (height, width)
    assert int((rows == 0).sum()) == height * width - scale.numel()


def test_a_scale_lies_where_cublas_reads_it() -> None:
    scale = torch.zeros(256, 8, dtype=torch.uint8)
    scale[128 + 70, 5] = 9
    assert swizzled(scale).nonzero().item() == 3 * 512 + (70 % 32) * 16 + (70 // 32) * 4 + 1


def test_codes_are_packed_as_weights_are() -> None:
    codes = torch.tensor([[1, 2, 15, 8]], dtype=torch.uint8)
    assert numbers(pack(codes).view(torch.float4_e2m1fn_x2)).tolist() == [[0.5, 1.0, -6.0, -0.0]]


@EVERY_SCHEME
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("rows", [(48,), (50,), (16, 20), (130, 6, 8)])
@pytest.mark.parametrize("num_cols", [96, 72, 320])
@pytest.mark.parametrize("biased", [False, True])
def test_what_torch_is_given_is_the_product(scheme, dtype, rows, num_cols: int, biased: bool, fake: Fake) -> None:
    weights = made(scheme, rows, num_cols)
    x = random_input(5, num_cols, generator(1)).to(dtype)
    bias = torch.randn(sum(rows), generator=generator(2)).to(dtype) if biased else None

    y = BACKEND.apply(BACKEND.prepare(weights), x, bias)

    assert (y.dtype, tuple(y.shape)) == (dtype, (5, sum(rows)))
    rounded = dtype != torch.float32 or fake.calls[0]["dtype"] == torch.bfloat16
    near(y, truth(weights, x, bias), 2**-7 if rounded else 1e-5)
    assert len(fake.calls) == 1
    assert fake.calls[0]["bias"] is None


@EVERY_SCHEME
@pytest.mark.parametrize("shape", [(96,), (1, 96), (0, 96), (2, 3, 96), (129, 96)])
def test_inputs_have_any_number_of_axes_and_tokens(scheme: LinearScheme, shape, fake: Fake) -> None:
    weights = made(scheme)
    x = torch.randn(shape, generator=generator(3)).bfloat16()
    y = BACKEND.apply(BACKEND.prepare(weights), x)

    assert (y.dtype, tuple(y.shape)) == (torch.bfloat16, (*shape[:-1], 48))
    assert len(fake.calls) == (0 if 0 in shape else 1)
    if fake.calls:
        near(y, truth(weights, x), 2**-7)


def test_one_part_hands_its_global_scale_to_torch_and_several_are_applied_afterwards(fake: Fake) -> None:
    x = random_input(4, 96, generator(1))
    for rows, dtype in (((48,), torch.bfloat16), ((16, 32), torch.float32)):
        weights = made(NVFP4, rows)
        assert weights.weight_global_scale is not None
        if len(rows) > 1:
            weights.weight_global_scale.mul_(torch.tensor([1.0, 7.0]))
        near(BACKEND.apply(BACKEND.prepare(weights), x), truth(weights, x), 2**-7)
        (_, level), call = fake.calls[-1]["scales"][1], fake.calls[-1]
        assert call["dtype"] == dtype
        assert level.item() == (weights.weight_global_scale.item() if len(rows) == 1 else 1.0)


def test_mxfp4_is_asked_for_in_bf16_alone(fake: Fake) -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        BACKEND.apply(BACKEND.prepare(made(MXFP4)), torch.randn(2, 96).to(dtype))
    assert {call["dtype"] for call in fake.calls} == {torch.bfloat16}


@EVERY_SCHEME
@pytest.mark.parametrize(("rows", "num_cols"), [((48,), 96), ((50,), 72), ((16, 20), 96)])
def test_a_reload_writes_the_same_buffers(scheme: LinearScheme, rows, num_cols: int, fake: Fake) -> None:
    weights, other = made(scheme, rows, num_cols), made(scheme, rows, num_cols, seed=5)
    first = BACKEND.prepare(weights)
    held = (first.weight, first.weight_scale, first.input_global_scale, first.row_factor)
    before = [None if one is None else one.data_ptr() for one in held]
    x = random_input(3, num_cols, generator(1))
    for name in ("weight", "weight_scale", "weight_global_scale", "input_global_scale"):
        mine, new = getattr(weights, name), getattr(other, name)
        if mine is not None:
            mine.view(torch.uint8).copy_(new.view(torch.uint8))

    again = BACKEND.prepare(weights, first)

    held = (again.weight, again.weight_scale, again.input_global_scale, again.row_factor)
    assert [None if one is None else one.data_ptr() for one in held] == before
    near(BACKEND.apply(first, x), truth(other, x), 2**-7)  # what a captured graph holds


def test_a_nan_stays_one(fake: Fake) -> None:
    x = torch.ones(2, 96)
    x[1, 40] = float("nan")
    for scheme in (MXFP8, NVFP4):
        weights = made(scheme)
        quantized = quantize_input(x, scheme, None, BACKEND.prepare(weights).input_global_scale)
        assert quantized.block is not None
        assert quantized.block.float().isnan().any(1).tolist() == [False, True]


@pytest.mark.parametrize("scheme", [MXFP8, NVFP4], ids=["MXFP8", "NVFP4"])
@pytest.mark.parametrize("shape", [(1, 16, 32), (5, 50, 72), (200, 48, 96), (130, 256, 320)])
def test_torch_takes_the_shapes_and_dtypes(scheme: LinearScheme, shape, fake: Fake) -> None:
    """By the checks of torch's own shape function, those of CUDA. Its MXFP4 check forgets that two codes share a byte
    (torch 2.13), so MXFP4 is left out."""
    real, (num_tokens, num_rows, num_cols) = torch.ops.aten._scaled_mm_v2, shape
    if not hasattr(torch._meta_registrations, "_check_scaled_mm_sizes_v2"):
        pytest.skip("this torch does not check shapes without a device")
    BACKEND.apply(BACKEND.prepare(made(scheme, (num_rows,), num_cols)), torch.randn(num_tokens, num_cols).bfloat16())
    scale_a, recipe_a, scale_b, recipe_b, swizzle_a, swizzle_b = (
        one if isinstance(one, list) else [one] for one in fake.calls[0]["words"]
    )
    a, b = (empty(one) for one in fake.calls[0]["operands"])
    kinds = [[one.value for one in words] for words in (recipe_a, swizzle_a, recipe_b, swizzle_b)]
    y = real(a, b, [empty(one) for one in scale_a], *kinds[:2], [empty(one) for one in scale_b], *kinds[2:],
             None, torch.bfloat16)  # fmt: skip

    assert tuple(y.shape) == (num_tokens, -(-num_rows // 16) * 16)


def empty(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def test_weights_without_scales_are_an_error() -> None:
    weights = LinearWeights(
        scheme=MXFP8, shape=(16, 32), parts=(Part("whole", slice(0, 16), slice(0, 16)),), weight=torch.zeros(16, 32)
    )
    with pytest.raises(ValueError, match="no scale"):
        BACKEND.prepare(weights)
