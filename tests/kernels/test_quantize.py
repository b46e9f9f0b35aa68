"""Activation quantization: scales, clamping, zeros, powers of two."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp8load.dtypes import LARGEST_FINITE, DType
from fp8load.runtime.backend import Device, Yes, backends_for
from fp8load.scheme import LinearScheme, PerBlock, PerGroup, PerTensor, PerToken, QuantSpec
from fp8load_kernels import quantize
from fp8load_kernels.quantize import (
    FP8_DTYPES,
    quantize_dynamic,
    quantize_static,
    round_up_to_power_of_two,
)

H200 = Device(kind="cuda", capability=(9, 0))
PIECES = [PerTensor(), PerToken(), PerGroup(3), PerGroup(128), PerBlock(1, 4)]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(PIECES), st.sampled_from(sorted(FP8_DTYPES)), st.booleans(), st.integers(1, 5), st.integers(1, 9),
    st.floats(-30, 30), st.integers(0, 2**31),
)  # fmt: skip
def test_the_largest_of_each_piece_becomes_a_code_near_the_largest_finite_one(
    piece, dtype: DType, power: bool, num_rows: int, num_cols: int, exponent: float, seed: int
) -> None:
    x = torch.randn(num_rows, num_cols, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    quantized = quantize_dynamic(x, QuantSpec(dtype=dtype, granularity=piece), power_of_two=power)
    largest, back = LARGEST_FINITE[dtype], quantized.dequantize()
    step = 2.0**-3 if dtype in (DType.F8_E5M2, DType.F8_E5M2FNUZ) else 2.0**-4
    assert quantized.codes.dtype == FP8_DTYPES[dtype]
    assert quantized.codes.float().abs().max() >= largest * (0.49 if power else 0.99)
    floor = quantized.scale.max() * largest * 2.0**-14
    assert ((back - x).abs() <= x.abs() * step * 1.001 + floor).all()
    if power:
        mantissa, _ = torch.frexp(quantized.scale)
        assert (mantissa == 0.5).all()


def test_shapes_of_scales() -> None:
    x = torch.randn(4, 10)
    shapes = {PerTensor(): (1, 1), PerToken(): (4, 1), PerGroup(4): (4, 3), PerBlock(128, 5): (4, 2)}
    for piece, shape in shapes.items():
        assert tuple(quantize_dynamic(x, QuantSpec(dtype=DType.F8_E4M3, granularity=piece)).scale.shape) == shape


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("power", [True, False])
def test_zeros_stay_zeros(piece, power: bool) -> None:
    x = torch.zeros(3, 10)
    x[1, :3] = 1.0
    back = quantize_dynamic(x, QuantSpec(dtype=DType.F8_E4M3, granularity=piece), power_of_two=power).dequantize()
    assert torch.allclose(back, x)


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("shape", [(0, 8), (3, 0)])
def test_nothing_is_quantized_to_nothing(piece, shape: tuple[int, int]) -> None:
    quantized = quantize_dynamic(torch.zeros(shape), QuantSpec(dtype=DType.F8_E4M3, granularity=piece))
    assert tuple(quantized.dequantize().shape) == shape


@pytest.mark.parametrize("dtype", sorted(FP8_DTYPES))
def test_a_static_scale_clamps_to_the_largest_finite_value(dtype: DType) -> None:
    largest = LARGEST_FINITE[dtype]
    quantized = quantize_static(torch.tensor([[1e30, -1e30, largest, 0.0]]), dtype, torch.tensor([0.5]))
    assert quantized.codes.float().tolist() == [[largest, -largest, largest, 0.0]]
    assert quantized.dequantize()[0, 0] == largest / 2


def test_nans_are_not_hidden() -> None:
    x = torch.tensor([[1.0, float("nan")], [1.0, 2.0]])
    back = quantize_dynamic(x, QuantSpec(dtype=DType.F8_E4M3, granularity=PerToken())).dequantize()
    assert back[0].isnan().any()
    assert back[1].isfinite().all()


def test_powers_of_two_are_rounded_up_and_exact_ones_stay() -> None:
    scale = torch.tensor([1.0, 1.0000001, 0.75, 2.0**-126, 3e-38, 2.0**100])
    assert round_up_to_power_of_two(scale).tolist() == [1.0, 2.0, 1.0, 2.0**-126, 2.0**-124, 2.0**100]


@pytest.mark.parametrize(("capability", "hip", "triton", "runs"), [
    ((9, 0), None, True, True), ((8, 9), None, True, True), ((8, 0), None, True, False),
    ((9, 4), "6.4", True, False), ((9, 0), None, False, False),
])  # fmt: skip
def test_our_kernel_is_asked_only_where_triton_converts_to_e4m3(
    capability, hip, triton: bool, runs: bool, monkeypatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(quantize, "has_triton", lambda: triton)

    assert quantize.converts_to_e4m3.__wrapped__(torch.device("cuda:0")) is runs


def test_what_is_beyond_the_upper_bound_becomes_the_largest_code() -> None:
    x = torch.tensor([[0.5, -8.0, 2.0], [0.25, 0.5, -0.125]])

    found = quantize_dynamic(x, QuantSpec(dtype=DType.F8_E4M3, granularity=PerToken(), upper_bound=1.0))

    assert found.scale.tolist() == [[float(torch.tensor(1.0) / 448)], [float(torch.tensor(0.5) / 448)]]
    assert found.dequantize()[0].tolist() == pytest.approx([0.5, -1.0, 1.0])
    assert found.dequantize()[1].tolist() == pytest.approx([0.25, 0.5, -0.125])


@pytest.mark.parametrize("backend", backends_for(H200), ids=lambda it: it.name)
def test_a_bound_that_would_be_ignored_is_refused(backend) -> None:
    for piece, static in ((PerTensor(), False), (PerTensor(), True), (PerGroup(128), False)):
        scheme = LinearScheme(
            weight=QuantSpec(dtype=DType.F8_E4M3, granularity=PerBlock(128, 128) if piece == PerGroup(128) else piece,
                             scale_dtype=DType.F32),
            input=QuantSpec(dtype=DType.F8_E4M3, granularity=piece, upper_bound=1.0), input_static=static,
        )  # fmt: skip
        taken = isinstance(backend.supports(scheme, (256, 256), H200), Yes)
        assert not taken or backend.name in ("weight_only", "reference")  # which leave the input as it is
