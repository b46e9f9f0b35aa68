"""Where `torch_mx` is chosen, and why not elsewhere: asked without such a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import fp8load
from fp8load.dtypes import DType
from fp8load.runtime.backend import Device, No, Yes
from fp8load.runtime.choices import kernels_of
from fp8load.runtime.choose import choose
from fp8load.runtime.devices import parse_device
from fp8load.scheme import LinearScheme, PerGroup, PerTensor, QuantSpec, ScaleLayout, SecondLevel, Storage, Transform
from fp8load_kernels.backends import torch_mx
from fp8load_kernels.backends.torch_mx import TorchMX
from fp8load_kernels.bench.schemes import COMMON

MXFP8, MXFP4, NVFP4 = COMMON["MXFP8"], COMMON["MXFP4"], COMMON["NVFP4"]
B200, RTX = (Device(kind="cuda", capability=pair) for pair in ((10, 0), (12, 0)))
BACKEND = TorchMX()


@pytest.mark.parametrize(("scheme", "shape", "device", "reason"), [
    (replace(NVFP4, input=None, input_global=None), (64, 64), B200, "the scheme is weight-only"),
    (COMMON["128x128 blocks"], (128, 128), B200, "MXFP4 and NVFP4, not F8_E4M3 block 128 x 128 with scales of F32"),
    (replace(MXFP4, input=MXFP8.input), (64, 64), B200, "MXFP4 weights with inputs of the same form, not F8_E4M3"),
    (replace(MXFP8, input=QuantSpec(dtype=DType.F8_E4M3, granularity=PerGroup(32))), (64, 64), B200, "the same form"),
    (replace(NVFP4, input=QuantSpec(dtype=DType.F8_E4M3, granularity=PerTensor()), input_global=None), (64, 64), B200,
     "NVFP4 weights with inputs of the same form"),
    (replace(MXFP8, second_level=SecondLevel(dtype=DType.F32)), (64, 64), B200, "one level of scales"),
    (replace(NVFP4, transforms=(Transform.PRE_QUANT_SCALE,)), (64, 64), B200, "does not apply pre_quant_scale"),
    (replace(MXFP8, storage=Storage(scale_layout=ScaleLayout.SWIZZLED_128X4)), (64, 64), B200, "row-major"),
    (NVFP4, (64, 65), B200, "an even K, not [64, 65]"), (MXFP8, (0, 64), B200, "at least 1"),
    (MXFP8, (64, 64), Device(kind="cuda", capability=(9, 0)), "runs MXFP8 on compute capability 10.0 or 10.3 or 12.0"),
    (NVFP4, (64, 64), Device(kind="cpu"), "and this is cpu"),
    (NVFP4, (64, 64), Device(kind="cuda", capability=(12, 1)), "and this is cuda, 12.1"),
    (MXFP4, (64, 64), RTX, "runs MXFP4 on compute capability 10.0 or 10.3, and this is cuda, 12.0"),
])  # fmt: skip
def test_it_says_why_it_refuses(scheme: LinearScheme, shape, device: Device, reason: str) -> None:
    verdict = BACKEND.supports(scheme, shape, device)
    assert isinstance(verdict, No)
    assert reason in verdict.reason


def test_amds_gpus_of_the_same_number_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert isinstance(BACKEND.supports(MXFP8, (64, 64), RTX), No)


def test_mxfp4_needs_a_torch_that_was_built_with_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, verdict in (("-DUSE_FBGEMM -DUSE_MSLK", Yes), ("-DUSE_FBGEMM_GENAI", Yes), ("-DUSE_FBGEMM", No)):
        torch_mx.has_mxfp4.cache_clear()
        monkeypatch.setattr(torch.__config__, "show", lambda flags=flags: flags)
        assert isinstance(BACKEND.supports(MXFP4, (64, 64), B200), verdict)
        assert isinstance(BACKEND.supports(NVFP4, (64, 64), B200), Yes)
    torch_mx.has_mxfp4.cache_clear()


@pytest.mark.parametrize("device", ["sm80", "sm89", "sm90", "sm100", "sm103", "sm120", "sm121", "cpu"])
@pytest.mark.parametrize("kind", ["MXFP8", "MXFP4", "NVFP4"])
def test_blackwell_chooses_it_and_nothing_else_does(kind: str, device: str, monkeypatch) -> None:
    monkeypatch.setattr(torch_mx, "has_mxfp4", lambda: True)
    monkeypatch.setattr("fp8load_kernels.backends.weight_only.has_triton", lambda: True)
    here = {"sm100", "sm103"} if kind == "MXFP4" else {"sm100", "sm103", "sm120"}
    choice = choose(COMMON[kind], (50, 72), parse_device(device))

    assert choice.backend.name == ("torch_mx" if device in here else "emulated" if device == "cpu" else "weight_only")
    if device in here:
        assert "not run on such a GPU so far" in choice.why[-1]


def test_blocks_run_by_the_own_product_on_blackwell(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's product for blocks, and ours of DeepGEMM, are Hopper's; torch's for rows takes any GPU with FP8 units."""
    for module in ("blocks", "backends.triton_block"):
        monkeypatch.setattr(f"fp8load_kernels.{module}.has_triton", lambda: True)
    blocks = choose(COMMON["128x128 blocks"], (256, 256), B200)

    assert blocks.backend.name == "triton_block"
    assert [refusal.reason for refusal in blocks.refused if refusal.backend in ("torch_block", "deepgemm")] == [
        "runs on compute capability 9.0, and this is cuda, 10.0"
    ] * 2
    for kind in ("per tensor", "per channel"):
        assert choose(COMMON[kind], (256, 256), B200).backend.name == "torch_scaled_mm"


def test_a_plan_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fp8load_kernels.backends.weight_only.has_triton", lambda: True)
    plan = fp8load.open("fixtures/checkpoints/mo-qwen3moe-auto").plan()
    for device, backend in (("sm90", "weight_only"), ("sm100", "torch_mx")):
        found = kernels_of(plan, parse_device(device)).chosen
        chosen = [(len(one.shape), one.backend) for one in found if one.scheme.startswith("f4")]
        assert set(chosen) == {(2, backend), (3, "weight_only_grouped")}  # torch has no grouped product of MX
