"""The statistics of scales are those that a plain count over decoded values gives, however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise
from math import inf, isnan, log2, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp8load.dtypes import DType, decode
from fp8load.index.index import TensorMeta
from fp8load.rules.scale_stats import DEAD, NUM_SAMPLES, ScaleStats, measured, measured_together

DTYPES = [DType.F64, DType.F32, DType.F16, DType.BF16, *(dtype for dtype in DType if dtype.startswith("F8_"))]
ODD = {
    DType.F64: np.array([0.0, -0.0, -1.0, nan, inf, -inf, 1e-16, DEAD, 1e300]),
    DType.F32: np.array([0.0, -0.0, -1.0, nan, inf, -inf, 1e-16, 1e-23, DEAD], dtype="<f4"),
}


def measure(dtype: DType, data: bytes, num_chunks: int = 1) -> ScaleStats:
    width = dtype.bits // 8
    count = len(data) // width
    cuts = [count * i // num_chunks * width for i in range(num_chunks + 1)]
    pieces = [data[a:b] for a, b in pairwise(cuts) if b > a]
    return measured(TensorMeta("s", dtype, (count,), "f", 0, len(data)), pieces)


def first(where: np.ndarray) -> int:
    return int(where.argmax()) if where.any() else -1


def counted(dtype: DType, data: bytes) -> ScaleStats:
    """The same, the plain way."""
    values = decode(dtype, data)
    finite, positive = np.isfinite(values), values[np.isfinite(values) & (values > 0)]
    dead = (values > 0) & (values < DEAD)
    return ScaleStats(
        meta=TensorMeta("s", dtype, (values.size,), "f", 0, len(data)),
        num_nan=int(np.isnan(values).sum()), num_inf=int(np.isinf(values).sum()),
        num_zero=int((values == 0).sum()), num_negative=int((values < 0).sum()),
        first_not_finite=first(~finite), first_not_positive=first(values <= 0),
        smallest=float(values[finite].min()) if finite.any() else nan,
        largest=float(values[finite].max()) if finite.any() else nan,
        median_log2=log2(np.sort(positive)[positive.size // 2]) if positive.size else nan,
        num_dead=int(dead.sum()), first_dead=first(dead),
    )  # fmt: skip


def same(a: ScaleStats, b: ScaleStats) -> bool:
    return all(x == y or (isinstance(x, float) and isnan(x) and isnan(y)) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_statistics_are_those_of_a_plain_count(dtype, data):
    width = dtype.bits // 8
    raw = data.draw(st.lists(st.binary(min_size=width, max_size=width), min_size=1, max_size=40))
    if dtype in ODD:
        raw += [number.tobytes() for number in data.draw(st.lists(st.sampled_from(list(ODD[dtype])), max_size=5))]
    content, num_chunks = b"".join(raw), data.draw(st.integers(1, 5))

    assert same(measure(dtype, content, num_chunks), counted(dtype, content))


POWERS = np.exp2(np.arange(-30, 12)).astype("<f4")


@given(data=st.data())
def test_scales_that_are_measured_together_are_what_each_is_alone(data):
    metas, contents = [], []
    for number in range(data.draw(st.integers(1, 12))):
        dtype, count = data.draw(st.sampled_from(DTYPES)), data.draw(st.integers(1, 3))
        codes = st.binary(min_size=dtype.bits // 8, max_size=dtype.bits // 8)
        if dtype is DType.F32:
            codes |= st.sampled_from([number.tobytes() for number in (*ODD[dtype], *POWERS)])
        contents.append(b"".join(data.draw(codes) for _ in range(count)))
        metas.append(TensorMeta(f"s{number}", dtype, (count,), "f", 0, len(contents[-1])))
    powers = {meta.name for meta in metas if meta.dtype.is_wide_float and data.draw(st.booleans())}

    found = measured_together(metas, b"".join(contents), must_be_powers=powers)

    alone = [measured(meta, [content], must_be_powers=meta.name in powers)
             for meta, content in zip(metas, contents, strict=True)]  # fmt: skip
    assert len(found) == len(alone)
    assert all(same(a, b) for a, b in zip(found, alone, strict=True))


def test_the_median_of_many_is_the_same_in_company():
    values = np.exp(np.random.default_rng(0).standard_normal((3, 5 * NUM_SAMPLES + 17))).astype("<f4")
    metas = [TensorMeta(f"s{row}", DType.F32, (len(values[0]),), "f", 0, values[0].nbytes) for row in range(3)]

    found = measured_together(metas, values.tobytes())

    assert found == [measured(meta, [row.tobytes()]) for meta, row in zip(metas, values, strict=True)]


@pytest.mark.parametrize("num_chunks", [1, 3, 7])
def test_the_median_of_many_is_near_that_of_all_and_does_not_depend_on_the_cuts(num_chunks):
    values = np.exp(np.random.default_rng(0).standard_normal(50 * NUM_SAMPLES + 17)).astype("<f4")
    stats = measure(DType.F32, values.tobytes(), num_chunks)

    assert abs(stats.median_log2 - log2(np.median(values))) < 0.1
    assert stats.median_log2 == measure(DType.F32, values.tobytes()).median_log2
    assert (stats.smallest, stats.largest) == (values.min(), values.max())


def test_a_scale_is_constant_only_where_all_of_it_is_sound():
    ones = np.ones(8, dtype="<f4")
    with_nan = ones.copy()
    with_nan[3] = nan

    assert measure(DType.F32, ones.tobytes()).constant == 1.0
    assert measure(DType.F32, with_nan.tobytes()).constant is None
    assert measure(DType.F32, (ones * np.arange(1, 9, dtype="<f4")).tobytes()).constant is None


def test_an_empty_scale_is_not_sound():
    assert not measure(DType.F32, b"").is_sound
