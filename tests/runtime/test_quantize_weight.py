"""Laws of the weight quantizer: bounds, the largest code, idempotence; against another encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fp8load.dtypes import LARGEST_FINITE, DType
from fp8load.errors import LoadError
from fp8load.runtime import quantize_weight as module
from fp8load.runtime.dequantize import dequantize
from fp8load.runtime.quantize_weight import QuantizedWeight, quantize_weight
from fp8load.scheme import Granularity, PerBlock, PerChannel, PerGroup, PerTensor, QuantSpec, ScaleRounding, scale_shape
from fp8load.values.encode import encoded

GRANULARITIES = (PerTensor(), PerChannel(), PerBlock(4, 3), PerBlock(128, 128), PerGroup(5))
HALF_STEP = {DType.F8_E4M3: 2.0**-4, DType.F8_E5M2: 2.0**-3}
SMALLEST = {DType.F8_E4M3: 2.0**-9, DType.F8_E5M2: 2.0**-16}


def spec(granularity: Granularity, dtype: DType = DType.F8_E4M3, scale: DType = DType.F32) -> QuantSpec:
    return QuantSpec(dtype=dtype, granularity=granularity, scale_dtype=scale)


def by_element(granularity: Granularity, scale: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The scale of each element: every element looks up its own."""
    i, j = np.indices(shape)
    match granularity:
        case PerTensor():
            return np.full(shape, scale.reshape(-1)[0])
        case PerChannel():
            return scale[i, 0]
        case PerBlock(rows=bn, cols=bk):
            return scale[i // bn, j // bk]
        case PerGroup(cols=g):
            return scale[i, j // g]
    raise ValueError(granularity)


def back(made: QuantizedWeight, granularity: Granularity) -> torch.Tensor:
    return dequantize(made.codes, made.scale, granularity)


@st.composite
def weights(draw: st.DrawFn) -> torch.Tensor:
    """Small matrices with rows of different sizes, zeros among them; sometimes as transposed memory."""
    num_rows, num_cols = draw(st.integers(1, 13)), draw(st.integers(1, 17))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.normal(size=(num_rows, num_cols)) * 2.0 ** rng.integers(-20, 20, (num_rows, 1))
    values *= rng.random((num_rows, num_cols)) > draw(st.sampled_from([0.0, 0.3, 0.9]))
    dtype = draw(st.sampled_from([torch.bfloat16, torch.float16, torch.float32]))
    w = torch.from_numpy(values).clamp(-60000, 60000).to(dtype)
    return w.T.contiguous().T if draw(st.booleans()) else w


KINDS = st.tuples(st.sampled_from(GRANULARITIES), st.sampled_from([DType.F8_E4M3, DType.F8_E5M2]))
SCALES = st.sampled_from(
    [(DType.F32, False), (DType.BF16, False), (DType.F32, True), (DType.F8_E8M0, True), (DType.U8, True)]
)


@given(weights(), KINDS, SCALES)
def test_codes_are_those_of_an_independent_encoder_and_scales_are_amax_over_the_largest(w, kind, stored) -> None:
    (granularity, dtype), (scale_dtype, power) = kind, stored
    rounding = ScaleRounding.POWER_OF_TWO if power else ScaleRounding.ANY

    made = quantize_weight(w, spec(granularity, dtype, scale_dtype), rounding=rounding)

    values = w.float().numpy()
    shape = scale_shape(granularity, values.shape)
    assert tuple(made.scale.shape) == shape
    scale = made.scale.view(torch.uint8).numpy().astype(np.float64) - 127 if made.scale.element_size() == 1 else None
    scale = made.scale.numpy() if scale is None else np.exp2(scale).astype(np.float32)
    each = by_element(granularity, scale, values.shape)
    amax = np.zeros_like(values)
    for one in np.ndindex(*shape):
        index = np.zeros(shape, np.float32)
        index[one] = 1
        inside = by_element(granularity, index, values.shape) == 1
        amax[inside] = np.abs(values[inside]).max()
    wanted = np.maximum(amax / np.float32(LARGEST_FINITE[dtype]), np.float32(2.0**-126))
    wanted = np.where(amax == 0, np.float32(1), wanted)
    wanted = np.exp2(np.ceil(np.log2(wanted.astype(np.float64)))).astype(np.float32) if power else wanted
    assert np.array_equal(each, wanted)
    largest = np.float32(LARGEST_FINITE[dtype])
    codes = encoded(dtype, np.clip(values / each, -largest, largest))
    assert np.array_equal(made.codes.view(torch.uint8).numpy(), codes)


@given(weights(), KINDS)
def test_no_value_is_further_off_than_half_a_step_and_each_block_reaches_the_largest_code(w, kind) -> None:
    granularity, dtype = kind

    made = quantize_weight(w, spec(granularity, dtype))

    values, scale = w.float().numpy(), by_element(granularity, made.scale.numpy(), tuple(w.shape))
    error = np.abs(back(made, granularity).numpy() - values)
    assert (error <= np.maximum(np.abs(values) * HALF_STEP[dtype], scale * SMALLEST[dtype] / 2) * (1 + 1e-6)).all()
    reached = np.abs(made.codes.float().numpy()) == LARGEST_FINITE[dtype]
    for one in np.unique(scale[(values != 0) & (scale > 2.0**-126)]):
        assert reached[scale == one].any()


@given(weights(), KINDS, st.booleans())
def test_what_was_dequantized_is_quantized_to_itself(w, kind, power) -> None:
    """Codes are the same (of powers of two: the values, whose exponent may be one lower), the scale to the last bit."""
    granularity, dtype = kind
    rounding = ScaleRounding.POWER_OF_TWO if power else ScaleRounding.ANY
    once = quantize_weight(w, spec(granularity, dtype), rounding=rounding)

    twice = quantize_weight(back(once, granularity), spec(granularity, dtype), rounding=rounding)

    if power:
        assert torch.equal(back(twice, granularity), back(once, granularity))
    else:
        normal = by_element(granularity, (once.scale > 2.0**-126).numpy(), tuple(w.shape))
        same = (twice.codes.view(torch.uint8) == once.codes.view(torch.uint8)).numpy()
        assert same[normal].all()
        torch.testing.assert_close(twice.scale, once.scale, rtol=2.0**-22, atol=0)


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_the_bands_that_are_computed_at_once_do_not_change_the_result(granularity, monkeypatch) -> None:
    w = torch.randn(37, 29, generator=torch.Generator().manual_seed(1)).bfloat16()
    usual = quantize_weight(w, spec(granularity))
    for size in (1, 29, 100, 400):
        monkeypatch.setattr(module, "BAND_NUM_ELEMENTS", size)

        made = quantize_weight(w, spec(granularity))

        assert torch.equal(made.codes.view(torch.uint8), usual.codes.view(torch.uint8))
        assert torch.equal(made.scale, usual.scale)


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_zeros_have_codes_of_zero_and_a_scale_that_nothing_refuses(granularity) -> None:
    made = quantize_weight(torch.zeros(9, 7), spec(granularity))

    assert (made.scale == 1).all()
    assert (made.codes.view(torch.uint8) == 0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_a_nan_or_an_infinity_is_refused_with_its_place(bad, granularity) -> None:
    w = torch.ones(9, 7, dtype=torch.bfloat16)
    w[8, 6] = bad

    with pytest.raises(LoadError, match=r"FILL726[\s\S]*q_proj[\s\S]*\[8, 6\]"):
        quantize_weight(w, spec(granularity), name="q_proj.weight")


def test_a_spec_without_scales_is_no_way_to_quantize() -> None:
    with pytest.raises(ValueError, match="FP8 with scales"):
        quantize_weight(torch.ones(2, 2), QuantSpec(dtype=DType.F8_E4M3, granularity=PerTensor()))
