"""Codes of float32 numbers are those that torch gives: every code, every middle between two, and numbers at random."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fp8load.dtypes import LARGEST_FINITE, DType, decode_table
from fp8load.values.encode import encoded

DTYPES = {
    DType.F8_E4M3: torch.float8_e4m3fn, DType.F8_E5M2: torch.float8_e5m2,
    DType.F8_E4M3FNUZ: torch.float8_e4m3fnuz, DType.F8_E5M2FNUZ: torch.float8_e5m2fnuz,
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_are_torchs(dtype):
    table = decode_table(dtype)
    finite = table[np.isfinite(table)]
    generator = np.random.default_rng(0)
    some = generator.normal(size=100_000) * np.exp2(generator.integers(-20, 9, 100_000))
    values = np.concatenate([finite, ((finite[:, None] + finite) / 2).ravel(), some]).astype(np.float32)
    values = values.clip(-LARGEST_FINITE[dtype], LARGEST_FINITE[dtype])

    expected = torch.from_numpy(values).to(DTYPES[dtype]).view(torch.uint8).numpy()

    assert (encoded(dtype, values) == expected).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_too_large_gets_the_largest_code(dtype):
    codes = encoded(dtype, np.array([1e9, -1e9], np.float32))

    assert decode_table(dtype)[codes].tolist() == [LARGEST_FINITE[dtype], -LARGEST_FINITE[dtype]]
