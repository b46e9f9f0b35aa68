"""Codes and scales to float32: exact decoding, one rounding, every dialect."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp8load.dtypes import DType, decode_table
from fp8load.runtime.dequantize import decode_scale, decode_weight, dequantize
from fp8load.scheme import NibbleOrder, PerBlock, PerChannel, PerGroup, PerTensor, Storage
from runtime.cases import dequantized, part, scheme

GRANULARITIES = st.one_of(
    st.just(PerTensor()), st.just(PerChannel()), st.builds(PerBlock, st.integers(1, 5), st.integers(1, 5)),
    st.builds(PerGroup, st.integers(1, 5)),
)  # fmt: skip
SCALES = st.sampled_from([DType.F32, DType.BF16, DType.F16, DType.U8, DType.F8_E8M0])


@settings(max_examples=80, deadline=None)
@given(GRANULARITIES, SCALES, st.integers(1, 11), st.integers(1, 11), st.integers(0, 2**31))
def test_it_is_bit_for_bit_the_product_that_numpy_computes(granularity, stored, num_rows, num_cols, seed) -> None:
    one = part(np.random.default_rng(seed), scheme(granularity, stored), num_rows, num_cols)
    result = dequantize(one.weight, one.scale, granularity)
    assert np.array_equal(result.numpy().view(np.uint32), dequantized(one, granularity).view(np.uint32))


def test_exponent_bytes_at_the_ends_are_exact() -> None:
    ends = torch.tensor([0, 1, 127, 254, 255], dtype=torch.uint8)
    for stored in (ends, ends.view(torch.float8_e8m0fnu)):
        values = decode_scale(stored)
        assert values[:4].tolist() == [2.0**-127, 2.0**-126, 1.0, 2.0**127]
        assert values[4].isnan()


@pytest.mark.parametrize(
    ("granularity", "shapes"),
    [
        (PerTensor(), [(), (1,), (1, 1)]),
        (PerChannel(), [(6,), (6, 1)]),
        (PerBlock(4, 4), [(2, 2), (2, 1, 2, 1)]),
        (PerGroup(4), [(6, 2)]),
    ],
)
def test_each_dialect_of_a_scale_gives_the_same(granularity, shapes) -> None:
    weight = torch.randn(6, 7).to(torch.float8_e4m3fn)
    flat = torch.rand(int(np.prod(shapes[0])))
    results = [dequantize(weight, flat.reshape(shape), granularity) for shape in shapes]
    assert all(torch.equal(result, results[0]) for result in results)


def test_experts_are_dequantized_one_by_one() -> None:
    weight = torch.randn(3, 6, 7).to(torch.float8_e4m3fn)
    shapes = {PerTensor(): (3,), PerChannel(): (3, 6, 1), PerBlock(4, 4): (3, 2, 2), PerGroup(2): (3, 6, 4)}
    for granularity, shape in shapes.items():
        scale = torch.rand(shape)
        together = dequantize(weight, scale, granularity)
        for e in range(3):
            assert torch.equal(together[e], dequantize(weight[e], scale[e], granularity))


@pytest.mark.parametrize(
    ("granularity", "shape"),
    [
        (PerTensor(), (2,)),
        (PerChannel(), (7,)),
        (PerBlock(4, 4), (1, 2)),
        (PerBlock(4, 4), (2, 3)),
        (PerGroup(4), (6, 1)),
    ],
)
def test_a_scale_that_does_not_fit_is_refused(granularity, shape) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        dequantize(torch.randn(6, 7).to(torch.float8_e4m3fn), torch.ones(shape), granularity)


@pytest.mark.parametrize("order", [NibbleOrder.LOW_FIRST, NibbleOrder.HIGH_FIRST])
@pytest.mark.parametrize("divides", [True, False])
def test_two_elements_in_a_byte_and_two_levels_of_scales(order: NibbleOrder, divides: bool) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (4, 32))
    even, odd = (codes[:, ::2], codes[:, 1::2]) if order is NibbleOrder.LOW_FIRST else (codes[:, 1::2], codes[:, ::2])
    packed = torch.from_numpy((even | odd << 4).astype(np.uint8))
    scale, second = torch.rand(4, 2).to(torch.float8_e4m3fn), torch.tensor([0.37])
    storage = Storage(elements_per_byte=2, nibble_order=order)
    levels = {"global_scale": second, "divides": divides}
    result = dequantize(packed, scale, PerGroup(16), dtype=DType.F4, storage=storage, **levels)
    factor = scale.float() / second if divides else scale.float() * second
    expected = decode_table(DType.F4)[codes] * np.repeat(factor.numpy(), 16, axis=1)
    assert np.array_equal(result.numpy(), expected)


def test_the_weight_itself_is_not_changed() -> None:
    weight = torch.ones(2, 2)
    assert dequantize(weight, torch.tensor(2.0), PerTensor()).tolist() == [[2.0, 2.0], [2.0, 2.0]]
    assert weight.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_words_that_are_not_in_order_are_refused() -> None:
    """Readers put them in order; decoding them as they lie would give other weights."""
    storage = Storage(elements_per_byte=2, nibble_order=NibbleOrder.EVEN_FIRST)

    with pytest.raises(ValueError, match="even-first"):
        decode_weight(torch.zeros(2, 4, dtype=torch.uint8), DType.I4, storage)
