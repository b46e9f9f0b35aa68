"""What every backend of this package promises: answers without a device, reasons, addresses that stay."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fp8load.dtypes import DType
from fp8load.runtime.backend import Device, No, Yes, providers
from fp8load.scheme import (
    LinearScheme,
    PerBlock,
    PerChannel,
    PerGroup,
    PerTensor,
    PerToken,
    QuantSpec,
    Storage,
    Transform,
)
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
    assert list(BACKENDS) == ["torch_scaled_mm", "emulated", "reference"]
    assert [backend.name for backend in provider(H200)] == list(BACKENDS)


@pytest.mark.parametrize("weight", [PerTensor(), PerChannel(), PerBlock(128, 128), PerGroup(32)])
@pytest.mark.parametrize("given", [PerTensor(), PerToken(), PerGroup(128), None])
@pytest.mark.parametrize("device", [CPU, H200, A100])
def test_reference_and_emulated_run_every_scheme_on_every_device(weight, given, device: Device) -> None:
    for name in ("reference", "emulated"):
        assert BACKENDS[name].supports(layer(weight, given), (50, 100), device) == Yes()


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
        assert BACKENDS["torch_scaled_mm"].supports(layer(weight, given), shape, device) == Yes()


@pytest.mark.parametrize("name", ["reference", "emulated"])
def test_what_cannot_be_dequantized_is_refused_with_a_reason(name: str) -> None:
    for scheme, reason in (
        (replace(layer(), transforms=(Transform.ROTATION,)), "rotation"),
        (replace(layer(), storage=Storage(interleaved=True)), "row-major"),
        (layer(dtype=DType.F6_E2M3), "F6_E2M3"),
    ):
        verdict = BACKENDS[name].supports(scheme, (64, 64), CPU)
        assert isinstance(verdict, No)
        assert reason in verdict.reason


def test_emulated_refuses_inputs_that_it_cannot_quantize() -> None:
    scheme = replace(layer(), input=QuantSpec(dtype=DType.F4, granularity=PerGroup(16)))
    verdict = BACKENDS["emulated"].supports(scheme, (64, 64), CPU)
    assert isinstance(verdict, No)
    assert "F4" in verdict.reason
