"""The truth that backends are measured from: it agrees with them to the bit, and shares no code with them."""

from __future__ import annotations

import ast
import inspect
from dataclasses import replace

import pytest
import torch

from fp8load.dtypes import DType, decode_table
from fp8load.runtime import dequantize as decoder
from fp8load.scheme import (
    LinearScheme,
    PerGroup,
    PerTensor,
    PerToken,
    QuantSpec,
    ScaleRounding,
    SecondLevel,
    SharedExponent,
)
from fp8load_kernels import e2m1, quantize, quantize_mx, quantize_nvfp4, quantized, torch_quantize
from fp8load_kernels.backends.emulated import Emulated
from fp8load_kernels.backends.reference import Reference
from fp8load_kernels.bench import exact
from fp8load_kernels.bench.accuracy import TOLERANCE, trial
from fp8load_kernels.bench.operands import random_weights
from fp8load_kernels.bench.schemes import COMMON
from fp8load_kernels.derive import largest_input_global, largest_input_scale
from fp8load_kernels.quantized import FP8_DTYPES
from kernels.test_bench import EVERY

CPU = torch.device("cpu")
WEIGHT = QuantSpec(dtype=DType.F8_E4M3, granularity=PerTensor(), scale_dtype=DType.F32)
GLOBAL = SecondLevel(dtype=DType.F32, divides=True)


def inputs() -> dict[str, LinearScheme]:
    """Every way of quantizing an input."""
    found = {}
    for dtype in FP8_DTYPES:
        for cut in (PerTensor(), PerToken(), PerGroup(128), PerGroup(48)):
            spec = QuantSpec(dtype=dtype, granularity=cut)
            found[f"{dtype} {cut}"] = LinearScheme(weight=WEIGHT, input=spec)
            found[f"{dtype} {cut} up"] = replace(found[f"{dtype} {cut}"], rounding=ScaleRounding.POWER_OF_TWO)
        static = QuantSpec(dtype=dtype, granularity=PerTensor(), scale_dtype=DType.F32)
        found[f"{dtype} static"] = LinearScheme(weight=WEIGHT, input=static, input_static=True)
    bounded = QuantSpec(dtype=DType.F8_E4M3, granularity=PerToken(), upper_bound=2.5)
    found["bounded"] = LinearScheme(weight=WEIGHT, input=bounded)
    for dtype in (DType.F8_E4M3, DType.F8_E5M2, DType.F6_E3M2, DType.F6_E2M3, DType.F4):
        for rule in SharedExponent:
            mx = QuantSpec(dtype=dtype, granularity=PerGroup(32), scale_dtype=DType.F8_E8M0, exponent=rule)
            found[f"mx {dtype} {rule}"] = LinearScheme(weight=WEIGHT, input=mx)
    two = QuantSpec(dtype=DType.F4, granularity=PerGroup(16), scale_dtype=DType.F8_E4M3)
    found["nvfp4"] = LinearScheme(weight=WEIGHT, input=two)
    found["nvfp4 stored"] = LinearScheme(weight=WEIGHT, input=two, input_global=GLOBAL)
    return found


INPUTS = inputs()


def an_input() -> torch.Tensor:
    """Normal numbers, ties, powers of two and their neighbours, zeros, and magnitudes from 1e-30 to 1e30."""
    rng = torch.Generator().manual_seed(5)
    x = torch.randn(12, 400, generator=rng)
    x[1] = torch.randint(-64, 65, (400,), generator=rng) / 16
    x[2] = torch.exp2(torch.randint(-20, 21, (400,), generator=rng).float())
    x[3] = torch.nextafter(x[2], torch.tensor(1e9))
    x[4], x[5] = x[0] * 1e-30, x[0] * 1e30
    x[6] = 0
    x[7, 32:200] = 0
    x[8] = x[8].bfloat16().float()
    x[9] = x[1] * 448 / 4
    return x


@pytest.mark.parametrize("scheme", INPUTS.values(), ids=INPUTS.keys())
def test_inputs_are_quantized_to_the_same_numbers(scheme: LinearScheme) -> None:
    weights = random_weights(scheme, (("a", 32), ("b", 16)), 400, torch.Generator().manual_seed(1))
    for x in (an_input(), an_input()[[0, 1, 8, 9]]):
        ours = quantize.quantize_input(x, scheme, largest_input_scale(weights), largest_input_global(weights))
        found = exact.exact_input(x, weights)
        torch.testing.assert_close(found.float(), ours.dequantize(), rtol=0, atol=0)
        assert torch.equal(exact.exact_input(x, weights, torch.tensor([3, 1])), found[[3, 1]])


@pytest.mark.parametrize("scheme", EVERY.values(), ids=EVERY.keys())
def test_weights_are_decoded_to_the_same_numbers(scheme: LinearScheme) -> None:
    weights = random_weights(scheme, (("a", 200), ("b", 56)), 384, torch.Generator().manual_seed(2))
    w_NK = torch.cat([exact.exact_weight(weights, i) for i in range(2)])

    atol = 1e-9 if scheme.residual_rank else 0  # what is added may cancel
    torch.testing.assert_close(w_NK.float(), weights.dequantize(), rtol=3e-7, atol=atol)


@pytest.mark.parametrize("dtype", exact.FLOATS)
def test_codes_are_the_numbers_of_the_table(dtype: DType) -> None:
    found = exact.float_values(dtype)
    expected = torch.from_numpy(decode_table(dtype))[: len(found)].double()

    assert torch.equal(found[expected.isfinite()], expected[expected.isfinite()])
    assert found[~expected.isfinite()].isnan().all()


def test_the_truth_shares_no_code_with_backends() -> None:
    """A type of what is loaded, the vocabulary of schemes, names of dtypes; nothing that decodes or quantizes."""
    imported = {
        f"{node.module}.{name.name}"
        for node in ast.walk(ast.parse(inspect.getsource(exact)))
        if isinstance(node, ast.ImportFrom)
        for name in node.names
        if node.module not in ("__future__", "typing", "fp8load.scheme")
    }
    assert imported == {"fp8load.dtypes.DType", "fp8load.runtime.backend.LinearWeights"}
    assert not {"dequantize", "stored", "input_factor", "residual", "scale_values"} & {
        node.attr for node in ast.walk(ast.parse(inspect.getsource(exact))) if isinstance(node, ast.Attribute)
    }


def cut_off(x: torch.Tensor, dtype: DType) -> torch.Tensor:
    """Codes of F8_E4M3 rounded towards zero."""
    toward_zero = (x.view(torch.int32) & ~((1 << 20) - 1)).view(torch.float32)
    return toward_zero.clamp(-448, 448).to(FP8_DTYPES[dtype])


FAULTS = {
    "codes cut off": (torch_quantize, "to_codes", cut_off, "per channel"),
    "the largest code is that of fnuz": (torch_quantize, "LARGEST_FINITE", {DType.F8_E4M3: 240.0}, "128x128 blocks"),
    "scales a step too small": (
        torch_quantize, "divided", lambda x, number: x / (2 * number), "128x128 blocks",
    ),
    "groups of half the columns": (
        torch_quantize, "group_amax", lambda x, cols: quantized.group_amax(x, cols // 2)[:, ::2], "128x128 blocks",
    ),
    "exponents one too small": (quantize_mx, "largest_exponent", lambda dtype: 9, "MXFP8"),
    "another rule of exponents": (quantize_mx, "carry_of", lambda dtype, rule: (1 << 23) - 1, "MXFP4"),
    "codes of F4 towards zero": (quantized, "to_e2m1", lambda x: e2m1.to_e2m1(x - x.sign() * 0.2), "NVFP4"),
    "no global scale": (
        quantize_nvfp4, "_in_range", lambda level: torch.ones_like(level) * 0.01, "NVFP4",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("module", "name", "wrong", "kind"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_of_the_quantizer_that_backends_share_is_seen(module, name: str, wrong, kind: str, monkeypatch) -> None:
    assert trial(Emulated(), COMMON[kind], CPU) < TOLERANCE
    monkeypatch.setattr(module, name, wrong)
    assert trial(Emulated(), COMMON[kind], CPU) > TOLERANCE


DECODERS = {
    "a wrong table": ("decode_table", lambda dtype: decode_table(DType.F6_E3M2), "MXFP4"),
    "scales of other blocks": (
        "multiply_", lambda values, scale, cut: decoder.multiply_blocks_(values, scale.flip(1), cut), "128x128 blocks",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "wrong", "kind"), DECODERS.values(), ids=DECODERS.keys())
def test_a_fault_of_the_decoder_that_backends_share_is_seen(name: str, wrong, kind: str, monkeypatch) -> None:
    assert trial(Reference(), COMMON[kind], CPU) < TOLERANCE
    decoder._table.cache_clear()
    monkeypatch.setattr(decoder, name, wrong)
    error = trial(Reference(), COMMON[kind], CPU)
    decoder._table.cache_clear()
    assert error > TOLERANCE
