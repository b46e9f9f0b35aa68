"""What every backend of this package promises: answers without a device, reasons, addresses that stay."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fp8load.dtypes import DType
from fp8load.runtime.backend import Device, LinearWeights, No, Part, Yes, providers
from fp8load.scheme import (
    LinearScheme,
    PerBlock,
    PerChannel,
    PerGroup,
    PerTensor,
    PerToken,
    QuantSpec,
    ScaleRounding,
    SecondLevel,
    Storage,
    Transform,
)
from fp8load_kernels.quantizable import InputKind, input_kind
from fp8load_kernels.quantize import quantize_input
from fp8load_kernels.select import provider

CPU = Device(kind="cpu")
H200 = Device(kind="cuda", capability=(9, 0), name="NVIDIA H200")
A100 = Device(kind="cuda", capability=(8, 0), name="NVIDIA A100")
TENSOR = PerTensor()
BACKENDS = {backend.name: backend for backend in provider(CPU)}


def layer(weight=TENSOR, given=TENSOR, dtype: DType = DType.F8_E4M3) -> LinearScheme:
    spec = None if given is None else QuantSpec(dtype=DType.F8_E4M3, granularity=given)
    return LinearScheme(weight=QuantSpec(dtype=dtype, granularity=weight, scale_dtype=DType.F32), input=spec)


def test_the_provider_is_found_through_its_entry_point() -> None:
    assert provider in providers()


def test_names_are_distinct_and_the_order_is_the_same_everywhere() -> None:
    assert list(BACKENDS) == [
        "torch_scaled_mm", "deepgemm", "torch_block", "triton_block", "torch_mx", "weight_only", "emulated",
        "reference",
    ]  # fmt: skip
    assert [backend.name for backend in provider(H200)] == list(BACKENDS)


@pytest.mark.parametrize("weight", [PerTensor(), PerChannel(), PerBlock(128, 128), PerGroup(32)])
@pytest.mark.parametrize("given", [PerTensor(), PerToken(), PerGroup(128), None])
@pytest.mark.parametrize("device", [CPU, H200, A100])
def test_reference_and_emulated_run_every_scheme_on_every_device(weight, given, device: Device) -> None:
    for name in ("reference", "emulated"):
        assert isinstance(BACKENDS[name].supports(layer(weight, given), (50, 100), device), Yes)


@pytest.mark.parametrize(
    ("scheme", "shape", "device", "reason"),
    [
        (layer(given=None), (64, 64), CPU, "weight-only"),
        (layer(PerBlock(128, 128)), (64, 64), CPU, "block 128 x 128"),
        (layer(given=PerGroup(128)), (64, 64), CPU, "group 1 x 128"),
        (layer(dtype=DType.F8_E5M2), (64, 64), CPU, "F8_E5M2"),
        (layer(), (0, 64), CPU, "at least 1"),
        (layer(), (64, 64), A100, "NVIDIA A100, 8.0"),
        (layer(), (64, 0), H200, "at least 1"),
        (layer(), (64, 64), Device(kind="xpu"), "xpu"),
        (replace(layer(), storage=Storage(transposed=True)), (64, 64), CPU, "plain"),
        (replace(layer(), input_global=SecondLevel(dtype=DType.F32)), (64, 64), CPU, "one level"),
    ],
)
def test_scaled_mm_says_why_it_refuses(scheme, shape, device, reason: str) -> None:
    verdict = BACKENDS["torch_scaled_mm"].supports(scheme, shape, device)
    assert isinstance(verdict, No)
    assert reason in verdict.reason


@pytest.mark.parametrize("weight", [PerTensor(), PerChannel()])
@pytest.mark.parametrize("given", [PerTensor(), PerToken()])
@pytest.mark.parametrize("device", [CPU, H200])
def test_scaled_mm_runs_scales_per_tensor_and_per_row(weight, given, device: Device) -> None:
    for shape in ((64, 96), (50, 100)):
        assert isinstance(BACKENDS["torch_scaled_mm"].supports(layer(weight, given), shape, device), Yes)


@pytest.mark.parametrize("name", ["reference", "emulated"])
def test_what_cannot_be_dequantized_is_refused_with_a_reason(name: str) -> None:
    for scheme, reason in (
        (replace(layer(), transforms=(Transform.ROTATION,)), "rotation"),
        (replace(layer(), storage=Storage(interleaved=True)), "row-major"),
        (layer(dtype=DType.I32), "I32"),
    ):
        verdict = BACKENDS[name].supports(scheme, (64, 64), CPU)
        assert isinstance(verdict, No)
        assert reason in verdict.reason


def given(dtype: DType, granularity, scale: DType | None = None, *, two_levels: bool = False) -> LinearScheme:
    spec = QuantSpec(dtype=dtype, granularity=granularity, scale_dtype=scale)
    return replace(layer(), input=spec, input_global=SecondLevel(dtype=DType.F32) if two_levels else None)


@pytest.mark.parametrize(
    ("scheme", "kind"),
    [
        (layer(given=None), InputKind.NONE),
        (layer(), InputKind.FP8),
        (given(DType.F8_E4M3, PerGroup(32)), InputKind.FP8),
        (given(DType.F8_E4M3, PerGroup(32), DType.F32), InputKind.FP8),
        (given(DType.F8_E4M3, PerGroup(128), DType.F8_E8M0), InputKind.FP8),
        (given(DType.F8_E4M3FNUZ, PerGroup(32), DType.F8_E8M0), InputKind.FP8),
        (given(DType.F8_E4M3, PerGroup(32), DType.F8_E8M0), InputKind.MX),
        (given(DType.F8_E5M2, PerGroup(32), DType.U8), InputKind.MX),
        (replace(given(DType.F8_E4M3, PerGroup(32)), rounding=ScaleRounding.POWER_OF_TWO), InputKind.MX),
        (given(DType.F4, PerGroup(32)), InputKind.MX),
        (given(DType.F4, PerGroup(16), DType.F8_E8M0), InputKind.MX),
        (given(DType.F6_E3M2, PerGroup(32)), InputKind.MX),
        (given(DType.F4, PerGroup(16)), InputKind.NVFP4),
        (given(DType.F4, PerGroup(16), two_levels=True), InputKind.NVFP4),
        (given(DType.F4, PerGroup(32), DType.F8_E4M3, two_levels=True), InputKind.NVFP4),
    ],
)
def test_the_way_an_input_is_quantized_follows_from_the_scheme(scheme: LinearScheme, kind: InputKind) -> None:
    assert input_kind(scheme) is kind
    assert isinstance(BACKENDS["emulated"].supports(scheme, (64, 64), CPU), Yes)


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        (given(DType.F6_E2M3, PerToken()), "F6_E2M3"),
        (given(DType.I8, PerToken()), "I8"),
        (given(DType.F4, PerToken()), "per group, not per token"),
        (given(DType.F4, PerGroup(64)), "not any in groups of 64"),
        (given(DType.F4, PerGroup(16), DType.F32), "not F32"),
        (given(DType.F4, PerGroup(32), DType.F8_E8M0, two_levels=True), "one level"),
        (given(DType.F8_E4M3, PerTensor(), two_levels=True), "not for F8_E4M3"),
    ],
)
def test_emulated_refuses_inputs_that_it_cannot_quantize(scheme: LinearScheme, reason: str) -> None:
    verdict = BACKENDS["emulated"].supports(scheme, (64, 64), CPU)
    assert isinstance(verdict, No)
    assert reason in verdict.reason
    with pytest.raises(ValueError, match=reason):
        quantize_input(torch.ones(1, 64), scheme, None)


def test_powers_of_two_by_scale_dtype_are_rounded_up_where_the_group_is_not_that_of_mx() -> None:
    quantized = quantize_input(torch.full((1, 128), 500.0), given(DType.F8_E4M3, PerGroup(128), DType.F8_E8M0), None)
    assert quantized.scale.tolist() == [[2.0]]


def test_a_global_scale_that_the_scheme_promises_is_not_made_up() -> None:
    weights = LinearWeights(
        scheme=given(DType.F4, PerGroup(16), two_levels=True), shape=(2, 16), weight=torch.zeros(2, 16),
        parts=(Part("whole", slice(0, 2), slice(0, 1)),), weight_scale=torch.ones(1),
    )  # fmt: skip
    with pytest.raises(ValueError, match="global scale of the input"):
        BACKENDS["emulated"].prepare(weights)
    second = replace(weights, scheme=replace(layer(), second_level=SecondLevel(dtype=DType.F32)))
    with pytest.raises(ValueError, match="global scale of the weight"):
        second.dequantize()


@pytest.mark.parametrize("name", ["reference", "emulated"])
@pytest.mark.parametrize("weight", [
    QuantSpec(dtype=DType.F4, granularity=PerGroup(16), scale_dtype=DType.F8_E4M3),
    QuantSpec(dtype=DType.F4, granularity=PerGroup(32), scale_dtype=DType.F8_E8M0),
    QuantSpec(dtype=DType.F8_E4M3, granularity=PerGroup(32), scale_dtype=DType.F8_E8M0),
])  # fmt: skip
def test_fp4_and_mx_weights_are_dequantized(name: str, weight: QuantSpec) -> None:
    for second in (None, SecondLevel(dtype=DType.F32), SecondLevel(dtype=DType.F32, divides=True)):
        scheme = LinearScheme(weight=weight, second_level=second, storage=Storage(elements_per_byte=2))
        assert isinstance(BACKENDS[name].supports(scheme, (64, 64), CPU), Yes)
