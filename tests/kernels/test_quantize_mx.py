"""MX and NVFP4 inputs against numpy: every element and every scale, at every magnitude."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fp8load.dtypes import DType, decode_table
from fp8load.scheme import SharedExponent
from fp8load_kernels.e2m1 import from_e2m1, pack, to_e2m1
from fp8load_kernels.quantize_mx import ELEMENT_BITS, mx_scale, quantize_mx
from fp8load_kernels.quantize_nvfp4 import nvfp4_block_scale, nvfp4_global_scale, quantize_nvfp4
from kernels.grids import E2M1, E2M3, E3M2, E4M3, E5M2, mx, nearest, nvfp4

GRIDS = {DType.F4: E2M1, DType.F6_E2M3: E2M3, DType.F6_E3M2: E3M2, DType.F8_E4M3: E4M3, DType.F8_E5M2: E5M2}


@st.composite
def inputs(draw: st.DrawFn) -> torch.Tensor:
    """[M, K] of random magnitudes: zeros, subnormals, values next to ties, and up to the largest float32."""
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 70))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    low = draw(st.integers(-149, 127))
    exponents = rng.integers(low, draw(st.integers(low, 127)), shape, endpoint=True)
    mantissas = rng.choice([1.0, 1.25, 1.5, 1.75, 1.75 + 2.0**-22, 2 - 2.0**-23, rng.uniform(1, 2)], shape)
    x = (np.ldexp(mantissas, exponents) * rng.choice([-1.0, 1.0, 1.0, 0.0], shape)).astype(np.float32)
    return torch.from_numpy(x)


def same(ours: torch.Tensor, theirs: np.ndarray) -> bool:
    with np.errstate(over="ignore"):  # the largest float32, rounded up: infinite in float32 here as there
        return np.array_equal(ours.numpy(), theirs.astype(np.float32))


@settings(max_examples=300, deadline=None)
@given(inputs(), st.sampled_from(sorted(GRIDS)), st.sampled_from([16, 32]), st.sampled_from(SharedExponent))
@example(torch.zeros(2, 33), DType.F4, 32, SharedExponent.FLOOR)
@example(torch.full((1, 3), torch.finfo(torch.float32).max), DType.F8_E4M3, 32, SharedExponent.CEIL)
@example(torch.full((1, 3), 2.0**-149), DType.F4, 32, SharedExponent.CEIL)
def test_mx_is_what_the_rule_of_its_exponent_says_to_the_bit(
    x: torch.Tensor, dtype: DType, cols: int, rule: SharedExponent
) -> None:
    quantized = quantize_mx(x, dtype, cols, rule)
    assert same(quantized.dequantize(), mx(x.numpy(), GRIDS[dtype], cols, rule))
    assert quantized.scale.shape == (x.shape[0], -(-x.shape[1] // cols))


@pytest.mark.parametrize("dtype", sorted(GRIDS))
def test_the_rules_change_the_exponent_at_the_magnitudes_that_they_say(dtype: DType) -> None:
    largest = float(GRIDS[dtype][-1])
    power = 2.0 ** np.floor(np.log2(largest))
    rounded = 2 - 2.0 ** -(ELEMENT_BITS[dtype] + 1)
    steps = {  # the first magnitude that has the next exponent; CEIL and FIT take their bound still with the first one
        SharedExponent.FLOOR: 2 * power,
        SharedExponent.ELEMENT: rounded * power,
        SharedExponent.ONE_BIT: 1.75 * power,
        SharedExponent.CEIL: np.nextafter(np.float32(power), np.float32(np.inf)),
        SharedExponent.FIT: np.nextafter(np.float32(largest), np.float32(np.inf)),
    }
    for rule, first in steps.items():
        below = np.nextafter(np.float32(first), np.float32(0))
        x = torch.from_numpy(np.array([[below], [first]], dtype=np.float32))
        assert mx_scale(x, dtype, 32, rule).float().flatten().tolist() == [1.0, 2.0], rule


def test_nothing_saturates_where_scales_fit() -> None:
    x = torch.rand(64, 96, generator=torch.Generator().manual_seed(0)) * 1000 - 500
    for dtype, grid in GRIDS.items():
        scale = mx_scale(x, dtype, 32, SharedExponent.FIT).float().repeat_interleave(32, 1)
        assert ((x / scale).abs() <= grid[-1]).all()


@settings(max_examples=300, deadline=None)
@given(inputs(), st.floats(-130, 110) | st.none())
@example(torch.zeros(1, 17), None)
@example(torch.full((1, 3), 2.0**-149), None)
@example(torch.full((1, 3), torch.finfo(torch.float32).max), None)
def test_nvfp4_is_its_definition_to_the_bit(x: torch.Tensor, exponent: float | None) -> None:
    tiny = float(np.finfo(np.float32).tiny)
    if exponent is None:
        stored, multiplier = None, np.float32(max(np.abs(x.numpy()).max() / np.float32(2688), np.float32(tiny)))
    else:
        stored = torch.tensor([2.0**exponent])
        multiplier = np.float32(max(float(stored), tiny))
    quantized = quantize_nvfp4(x, stored)
    assert quantized.dequantize().isfinite().all()
    assert same(quantized.dequantize(), nvfp4(x.numpy(), multiplier))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.floats(-60, 60), st.integers(0, 2**31))
def test_nvfp4_with_a_global_scale_of_its_own_is_near_the_input(
    rows: int, cols: int, exponent: float, seed: int
) -> None:
    x = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    quantized = quantize_nvfp4(x)
    scale = quantized.scale.repeat_interleave(16, 1)[:, :cols]
    # the step between 4 and 6 is 2 scales, and a block scale that was rounded down saturates by another 1/16 of 6
    assert ((quantized.dequantize() - x).abs() <= scale).all()


@pytest.mark.parametrize("dtype", sorted(GRIDS))
def test_every_code_of_an_mx_group_is_reproduced(dtype: DType) -> None:
    grid = np.concatenate([GRIDS[dtype], -GRIDS[dtype]]).astype(np.float32)
    x = torch.from_numpy(np.stack([np.append(grid, grid[-1])] * 2)) * torch.tensor([[2.0**-100], [2.0**90]])
    cols = x.shape[1]
    assert torch.equal(quantize_mx(x, dtype, cols).dequantize(), x)


def test_every_e2m1_code_and_e4m3_block_scale_of_nvfp4_is_reproduced() -> None:
    codes = torch.from_numpy(np.concatenate([E2M1, -E2M1]).astype(np.float32))
    blocks = torch.from_numpy(E4M3[1:].astype(np.float32)).reshape(-1, 1)
    for multiplier in (1.0, 2.0**-40, 2.0**60):
        x = codes * blocks * multiplier
        quantized = quantize_nvfp4(x, torch.tensor([multiplier]))
        assert torch.equal(quantized.dequantize(), x)
        assert torch.equal(nvfp4_block_scale(x, torch.tensor([multiplier])).float(), blocks)


def test_all_sixteen_e2m1_codes_survive_and_pack_low_nibble_first() -> None:
    codes = torch.arange(16, dtype=torch.uint8)
    assert torch.equal(to_e2m1(from_e2m1(codes)), codes)
    assert torch.equal(from_e2m1(codes), torch.from_numpy(decode_table(DType.F4)[:16]))
    assert pack(codes[:5].reshape(1, 5)).tolist() == [[0x10, 0x32, 0x04]]


def test_ties_go_to_the_even_code() -> None:
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 7.0])
    assert from_e2m1(to_e2m1(ties)).tolist() == [0, 1, 1, 2, 2, 4, 4, 6]
    assert nearest(ties.numpy(), E2M1).tolist() == [0, 1, 1, 2, 2, 4, 4, 6]


def test_shared_exponents_are_rounded_down_and_clamped() -> None:
    x = torch.tensor([[511.0], [512.0], [448.0], [0.0], [2.0**-149], [2.0**-118], [2.0**127]])
    exponents = mx_scale(x, DType.F8_E4M3, 32).view(torch.uint8).int() - 127
    assert exponents.flatten().tolist() == [0, 1, 0, -127, -127, -126, 119]
    assert quantize_mx(x[:1], DType.F8_E4M3).dequantize().tolist() == [[448.0]]


def test_a_block_whose_scale_underflows_becomes_zeros_not_nans() -> None:
    x = torch.full((1, 32), 1e-6)
    x[0, 16:] = 100.0
    quantized = quantize_nvfp4(x, torch.tensor([1.0]))
    assert (quantized.codes[0, :16] == 0).all()
    assert (quantized.dequantize()[0, :16] == 0).all()
    assert (quantized.dequantize()[0, 16:] > 90).all()


def test_a_global_scale_that_no_float_holds_gives_zeros_not_nans() -> None:
    for multiplier in (torch.tensor([1e-39]).reciprocal(), torch.tensor([3e38])):
        assert (quantize_nvfp4(torch.ones(1, 16), multiplier).dequantize() == 0).all()


def test_a_global_scale_that_is_too_small_saturates() -> None:
    back = quantize_nvfp4(torch.tensor([[1e6, -1e6, 1.0]]), torch.tensor([1.0])).dequantize()
    assert back.tolist() == [[2688.0, -2688.0, 0.0]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), -float("nan")])
def test_what_is_not_finite_makes_nans_of_its_group_only(bad: float) -> None:
    x = torch.ones(2, 40)
    x[0, 3] = bad
    for quantized in (
        quantize_mx(x, DType.F8_E4M3, 16), quantize_mx(x, DType.F4, 16), quantize_nvfp4(x, torch.tensor([0.01]))
    ):  # fmt: skip
        back = quantized.dequantize()
        assert back[0, :16].isnan().all()
        assert quantized.dtype is not DType.F4 or not (quantized.codes[0, 3] & 7).any()
        assert back[0, 16:].isfinite().all()
        assert back[1].isfinite().all()
    assert quantize_nvfp4(x).dequantize().isnan().all()  # its computed global scale belongs to all groups


@pytest.mark.parametrize("shape", [(0, 40), (3, 0), (0, 0)])
def test_no_tokens_and_no_columns_give_nothing(shape: tuple[int, int]) -> None:
    x = torch.zeros(shape)
    assert nvfp4_global_scale(x).tolist() == [[1.0]]
    for quantized in (quantize_mx(x, DType.F8_E4M3), quantize_mx(x, DType.F4), quantize_nvfp4(x)):
        assert tuple(quantized.dequantize().shape) == shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_inputs_are_quantized_as_their_float32_values(dtype: torch.dtype) -> None:
    x = torch.randn(3, 50).to(dtype)
    for quantize in (lambda x: quantize_mx(x, DType.F4), quantize_nvfp4):
        assert torch.equal(quantize(x).dequantize(), quantize(x.float()).dequantize())
