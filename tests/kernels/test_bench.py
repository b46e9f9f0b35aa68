"""Measuring products: operands of every scheme, the truth that errors are measured from, limits, peers, one run."""

from __future__ import annotations

from dataclasses import replace
from math import isnan

import pytest
import torch

from fp8load.dtypes import DType
from fp8load.errors import BackendError
from fp8load.runtime.backend import Device, No, Yes, backends_for, backends_named
from fp8load.runtime.grouped import OneByOne
from fp8load.scheme import (
    LinearScheme,
    PerChannel,
    PerGroup,
    PerTensor,
    QuantSpec,
    ScaleRounding,
    SecondLevel,
    Storage,
    Transform,
)
from fp8load_kernels.backends.emulated import Emulated
from fp8load_kernels.backends.reference import Reference
from fp8load_kernels.bench.accuracy import TOLERANCE, Truth, trial, trial_stack
from fp8load_kernels.bench.clock import Clock
from fp8load_kernels.bench.gemm import GemmBench, baselines, check_forced
from fp8load_kernels.bench.limits import PEAKS, Limits, measured_limits
from fp8load_kernels.bench.operands import random_input, random_weights, refuses_operands, weight_nbytes
from fp8load_kernels.bench.peer_list import all_peers
from fp8load_kernels.bench.peers.bf16 import BF16
from fp8load_kernels.bench.schemes import COMMON, SCHEMES
from fp8load_kernels.bench.shapes import NAMED, named, sized
from fp8load_kernels.grouped.triton_grouped import TritonGrouped

CPU = torch.device("cpu")
H200 = Device(kind="cuda", capability=(9, 0), name="NVIDIA H200")
NVFP4 = QuantSpec(dtype=DType.F4, granularity=PerGroup(16), scale_dtype=DType.F8_E4M3)
MXFP4 = QuantSpec(dtype=DType.F4, granularity=PerGroup(32), scale_dtype=DType.F8_E8M0)
MXFP8 = QuantSpec(dtype=DType.F8_E4M3, granularity=PerGroup(32), scale_dtype=DType.U8)
DIVIDES = SecondLevel(dtype=DType.F32, divides=True)
PACKED = Storage(elements_per_byte=2)
EVERY = {
    **SCHEMES,
    **COMMON,
    "nvfp4": LinearScheme(weight=NVFP4, input=NVFP4, second_level=DIVIDES, input_global=DIVIDES, storage=PACKED),
    "nvfp4 multiplies": LinearScheme(weight=NVFP4, input=NVFP4, second_level=SecondLevel(dtype=DType.F32),
                                     input_global=SecondLevel(dtype=DType.F32), storage=PACKED),
    "mxfp4": LinearScheme(weight=MXFP4, input=MXFP4, storage=PACKED),
    "mxfp8": LinearScheme(weight=MXFP8, input=MXFP8),
    "mxfp6": LinearScheme(weight=replace(MXFP4, dtype=DType.F6_E2M3)),
    "int8": LinearScheme(weight=QuantSpec(dtype=DType.I8, granularity=PerChannel(), scale_dtype=DType.BF16)),
    "int4": LinearScheme(weight=QuantSpec(dtype=DType.I4, granularity=PerGroup(128), scale_dtype=DType.F32),
                         storage=PACKED),
    "ue8m0": replace(SCHEMES["block"], rounding=ScaleRounding.POWER_OF_TWO),
    "awq": replace(SCHEMES["channel"], transforms=(Transform.PRE_QUANT_SCALE,)),
    "svdquant": LinearScheme(
        weight=NVFP4, input=NVFP4, second_level=DIVIDES, input_global=DIVIDES, storage=PACKED, residual_rank=8,
        transforms=(Transform.PRE_QUANT_SCALE, Transform.LOW_RANK_RESIDUAL),
    ),
}  # fmt: skip


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator(CPU).manual_seed(seed)


@pytest.mark.parametrize("scheme", EVERY.values(), ids=EVERY.keys())
def test_random_weights_of_every_scheme_are_finite_and_of_the_usual_size(scheme: LinearScheme) -> None:
    weights = random_weights(scheme, (("q", 256), ("k", 100)), 384, rng())
    w_NK = weights.dequantize()

    assert refuses_operands(scheme) == ""
    assert w_NK.shape == (356, 384)
    assert w_NK.isfinite().all()
    assert 1e-4 < w_NK.std() < 1
    assert not torch.equal(w_NK, random_weights(scheme, (("q", 256), ("k", 100)), 384, rng(1)).dequantize())


def test_parts_begin_a_row_of_blocks_anew() -> None:
    weights = random_weights(SCHEMES["block"], (("q", 200), ("k", 56)), 256, rng())

    assert [(part.rows, part.scale_rows) for part in weights.parts] == [
        (slice(0, 200), slice(0, 2)), (slice(200, 256), slice(2, 3)),
    ]  # fmt: skip
    assert weight_nbytes(weights) == 256 * 256 + 3 * 2 * 4


def test_an_input_has_outliers() -> None:
    x = random_input(64, 200, rng()).float()

    assert x[:, ::97].std() / x[:, 1:97].std() == pytest.approx(8, rel=0.2)


@pytest.mark.parametrize(("scheme", "reason"), [
    (LinearScheme(weight=QuantSpec(dtype=DType.I32, granularity=PerChannel())), "I32"),
    (LinearScheme(weight=QuantSpec(dtype=DType.F4, granularity=PerGroup(16), scale_dtype=DType.I8)), "scales of I8"),
    (replace(SCHEMES["block"], transforms=(Transform.ROTATION,)), "rotated"),
    (replace(SCHEMES["block"], storage=Storage(transposed=True)), "transposed"),
])  # fmt: skip
def test_other_schemes_are_refused_with_a_reason(scheme: LinearScheme, reason: str) -> None:
    assert reason in refuses_operands(scheme)
    with pytest.raises(ValueError, match=reason):
        random_weights(scheme, (("w", 32),), 32, rng())


@pytest.mark.parametrize("scheme", EVERY.values(), ids=EVERY.keys())
@pytest.mark.parametrize("backend", [Emulated(), Reference()], ids=lambda backend: backend.name)
def test_backends_are_near_the_truth(scheme: LinearScheme, backend) -> None:
    assert trial(backend, scheme, CPU) < (3e-3 if backend.name == "emulated" else 1e-5)


@pytest.mark.parametrize("kind", COMMON)
@pytest.mark.parametrize("backend", [Emulated(), Reference()], ids=lambda backend: backend.name)
def test_stacks_of_experts_are_near_the_truth(kind: str, backend) -> None:
    assert trial_stack(OneByOne(backend), COMMON[kind], CPU) < (3e-3 if backend.name == "emulated" else 1e-5)


@pytest.mark.parametrize("kind", ["per tensor", "per channel", "128x128 blocks"])
def test_the_grouped_kernel_is_near_the_truth(kind: str) -> None:
    assert trial_stack(TritonGrouped(), COMMON[kind], CPU, tokens=(9,)) < TOLERANCE


class Shuffled(OneByOne):
    """Experts in another order."""

    def prepare(self, weights, previous=None):
        found = super().prepare(weights, previous)
        return replace(found, each=found.each[::-1])


def test_rows_of_another_expert_are_far_from_the_truth() -> None:
    assert trial_stack(Shuffled(Emulated()), COMMON["per channel"], CPU) > TOLERANCE


class Broken(Reference):
    """A backend that is wrong in one way."""

    def __init__(self, wrong) -> None:
        self.wrong = wrong

    def apply(self, prepared, x, bias=None):
        return self.wrong(super().apply(prepared, x, bias))


def last_row_lost(y: torch.Tensor) -> torch.Tensor:
    y[-1] = 0
    return y


def test_a_product_for_many_tokens_is_tried_too() -> None:
    assert trial(Broken(lambda y: y if len(y) <= 64 else y * 1.05), SCHEMES["block"], CPU) > TOLERANCE
    assert isnan(trial(Broken(lambda y: y if len(y) > 64 else y * float("nan")), SCHEMES["block"], CPU))


@pytest.mark.parametrize("wrong", [lambda y: y * 1.05, lambda y: y.flip(0), last_row_lost, torch.zeros_like])
def test_a_wrong_product_is_far_from_both_truths(wrong) -> None:
    assert trial(Broken(wrong), SCHEMES["block"], CPU) > TOLERANCE


def test_the_truth_of_a_quantized_input_is_not_that_of_the_input_as_it_is() -> None:
    weights, x = random_weights(SCHEMES["channel"], (("w", 64),), 256, rng()), random_input(32, 256, rng())
    truth = Truth.of(weights, x)

    assert TOLERANCE < (truth.quantized - truth.plain).norm() / truth.plain.norm() < 0.1
    assert truth.error(truth.quantized) == truth.error(truth.plain) == 0


def test_of_many_tokens_some_are_looked_at_with_the_first_and_the_last() -> None:
    weights, x = random_weights(SCHEMES["tensor"], (("w", 16),), 64, rng()), random_input(1000, 64, rng())
    rows = Truth.of(weights, x).rows.tolist()

    assert (len(set(rows)), rows[0], rows[-1]) == (256, 0, 999)


def test_limits_are_the_larger_of_bytes_and_operations() -> None:
    known, unknown = Limits(4300e3, PEAKS["NVIDIA H200"]), Limits(5e3, None)
    block = SCHEMES["block"]

    assert known.us(10**9, 1, block) == pytest.approx(1e9 / 4300e3)
    assert known.us(1, 1979 * 10**9, block) == pytest.approx(1000)
    assert known.us(1, 989 * 10**9, SCHEMES["weight-only"]) == pytest.approx(1000)
    assert known.us(10**6, 10**15, EVERY["nvfp4"]) == pytest.approx(1e6 / 4300e3)
    assert unknown.us(5000, 10**15, block) == 1
    assert "not known, so bandwidth only" in unknown.note
    assert "bytes / 4300 GB/s measured, operations / 1979 TFLOP/s FP8" in known.note


def test_this_machine_has_a_bandwidth_and_no_known_peak() -> None:
    limits = measured_limits(CPU)

    assert limits.peak is None
    assert 100 < limits.bandwidth < 1e6


def test_a_clock_on_the_cpu_counts_microseconds() -> None:
    import time

    assert Clock(CPU).us(lambda: time.sleep(0.002)) == pytest.approx(2000, rel=0.8)
    with pytest.raises(ValueError, match="graphs are captured on CUDA"):
        Clock(CPU, graph=True)


def test_shapes_are_found_by_name_and_by_group() -> None:
    assert [case.name for case in named("l70b", "block")] == ["l70b.qkv", "l70b.down"]
    assert named("ds3.o", "channel")[0].shape == (7168, 16384)
    assert named("nothing", "block") == []
    assert {name for name in NAMED if name.startswith("small")} == {case.name for case in named("small", "tensor")}


TAKEN_BY = {"channel": ("row",), "block": ("block", "DeepGEMM")}


@pytest.mark.parametrize("device", [Device(kind="cpu"), H200, Device(kind="cuda", capability=(8, 0))])
@pytest.mark.parametrize("kind", SCHEMES)
def test_peers_say_what_they_take_or_why_not(device: Device, kind: str, monkeypatch) -> None:
    monkeypatch.delenv("VLLM_C", raising=False)
    weights = random_weights(SCHEMES[kind], (("w", 256),), 256, rng())
    verdicts = {peer.name: peer.supports(weights, 16, device) for peer in all_peers()}

    assert verdicts.pop("bf16") == Yes()
    for name, verdict in verdicts.items():
        fits = device == H200 and name.split()[-1] in TAKEN_BY.get(kind, ())
        assert fits or isinstance(verdict, No)
        assert isinstance(verdict, Yes) or verdict.reason
    assert (verdicts["peer torch row"] == Yes()) == (device == H200 and kind == "channel")


def test_a_library_that_cannot_be_loaded_is_named(monkeypatch) -> None:
    from fp8load_kernels.bench.peers import quantizers, vllm

    vllm.refuses_library.cache_clear()
    monkeypatch.setenv("VLLM_C", "/no/such/library.so")
    weights = random_weights(SCHEMES["channel"], (("w", 256),), 256, rng())
    verdict = all_peers()[4].supports(weights, 16, H200)
    name = quantizers.quantizer_name()
    vllm.refuses_library.cache_clear()

    assert isinstance(verdict, No)
    assert "VLLM_C" in verdict.reason
    assert name == "fp8load's"


@pytest.fixture(scope="module")
def bench() -> GemmBench:
    found = GemmBench(CPU, 3, Clock(CPU), Limits(10e3, None))
    cases = [sized("a", (64, 128), "block"), sized("b", (96, 64), "channel")]
    found.measure(cases, (1, 5), backends_for(Device(kind="cpu")), (BF16(),))
    return found


def test_a_run_measures_whoever_takes_a_layer(bench: GemmBench) -> None:
    cells = {(row.case.name, row.num_tokens, row.name) for row in bench.rows}

    assert cells == {
        (name, tokens, backend)
        for name, others in (("a", ()), ("b", ("torch_scaled_mm",)))
        for tokens in (1, 5)
        for backend in (*others, "emulated", "reference", "bf16")
    }
    assert bench.failed == []
    assert {refusal.backend for refusal in bench.refused} == {
        "torch_scaled_mm", "deepgemm", "torch_block", "triton_block", "torch_mx", "weight_only",
    }  # fmt: skip


def test_a_row_has_times_rates_and_errors_that_fit_each_other(bench: GemmBench) -> None:
    for row in bench.rows:
        num_rows, num_cols = row.case.shape
        assert row.error < TOLERANCE
        assert row.tflops == pytest.approx(2 * row.num_tokens * num_rows * num_cols / row.us / 1e6)
        assert row.gb_s == pytest.approx(row.nbytes / row.us / 1e3)
        moved = 2 * row.num_tokens * (num_rows + num_cols)
        held = {"block": 64 * 128 + 4, "channel": 96 * 64 + 96 * 4}[row.case.kind]
        assert row.nbytes == moved + (2 * num_rows * num_cols if row.name == "bf16" else held)
        assert row.share == pytest.approx((held + moved) / 10e3 / row.us)
    assert baselines(bench.rows)[bench.rows[0].case, 1] > 0


def test_what_raises_or_is_not_finite_is_kept_and_the_others_go_on() -> None:
    def raises(y: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of order\nand more")

    found = GemmBench(CPU, 3, Clock(CPU), Limits(10e3, None))
    nan, bad = Broken(lambda y: y * float("nan")), Broken(raises)
    found.measure([sized("a", (32, 32), "tensor")], (2,), (bad, nan, Reference()), ())

    assert [one.reason for one in found.failed] == [
        "RuntimeError: out of order", "ArithmeticError: the product is not finite",
    ]  # fmt: skip
    assert len(found.rows) == 1


def test_a_layer_that_no_operands_are_made_of_is_refused_by_name() -> None:
    found = GemmBench(CPU, 3, Clock(CPU), Limits(10e3, None))
    case = replace(
        sized("odd", (32, 32), "tensor"),
        scheme=LinearScheme(weight=QuantSpec(dtype=DType.I32, granularity=PerTensor())),
    )
    found.measure([case], (1, 2), backends_for(Device(kind="cpu")), all_peers())

    assert (found.rows, dict(found.refused)) == ([], {("odd", "no random weights of I32 are made"): 2})


def test_a_backend_that_was_asked_for_and_takes_nothing_is_an_error() -> None:
    here = Device(kind="cpu")
    block, channel = sized("a", (64, 128), "block"), sized("b", (64, 128), "channel")
    asked = backends_named(["torch_scaled_mm"], here)

    check_forced(["torch_scaled_mm"], asked, [block, channel], here)
    with pytest.raises(BackendError) as refused:
        check_forced(["torch_scaled_mm"], asked, [block], here)
    with pytest.raises(BackendError) as grouped:
        check_forced(["torch_scaled_mm", "triton_grouped"], asked, [channel], here)

    assert (refused.value.code, grouped.value.code) == ("BKD801", "BKD801")
    assert "triton_grouped was requested" in str(grouped.value)
    assert "not per block 128 x 128" in refused.value.expected


def test_the_input_of_a_static_scheme_is_hardly_clamped() -> None:
    scheme = SCHEMES["tensor"]
    weights, x = random_weights(scheme, (("w", 64),), 970, rng()), random_input(64, 970, rng())
    assert weights.input_scale is not None

    assert (x.float().abs() > weights.input_scale.min() * 448).float().mean() < 1e-3
