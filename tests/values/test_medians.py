"""The median of a row is the element in the middle, however many elements there are."""

from __future__ import annotations

import numpy as np
import pytest

from fp8load.values.medians import SORTED_AT_ONCE, upper_medians

SIZES = (1, 2, 3, 100, 512, 513, 514, 640, 896, 1023, 1024, 1025, 1026, 4096)


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4", "<u8"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("distinct", [2, 5, 1 << 8])
def test_it_stands_in_the_middle_of_the_row_in_order(dtype: str, size: int, distinct: int) -> None:
    rng = np.random.default_rng(size)
    rows = rng.integers(0, distinct, (7, size)).astype(dtype)
    rows[0] = np.sort(rows[0])
    rows[1] = np.sort(rows[1])[::-1]
    rows[2] = 0
    if distinct > 5:
        rows[3:] *= np.array(np.iinfo(dtype).max // 255, dtype)

    found = upper_medians(rows)

    assert found.dtype == rows.dtype
    assert np.array_equal(found, np.sort(rows, axis=1)[:, size // 2])


def test_every_number_of_smaller_ones_in_the_first_half_is_tried() -> None:
    """From none of the smaller half of a row in its first half to all of them."""
    size = SORTED_AT_ONCE + 2
    half = size // 2
    rows = np.array([[*range(half, size), *range(half)] for _ in range(half + 1)], dtype="<u4")
    for count, row in enumerate(rows):
        row[:count], row[half : half + count] = row[half : half + count].copy(), row[:count].copy()

    assert set(upper_medians(rows).tolist()) == {half}


def test_elements_that_are_apart_in_memory() -> None:
    rows = np.random.default_rng(2).integers(0, 1 << 32, (5, 3 * 600), dtype="<u4")

    assert np.array_equal(upper_medians(rows[:, ::3]), np.sort(rows[:, ::3], axis=1)[:, 300])
