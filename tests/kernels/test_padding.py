"""Padding changes no number, is written once, and keeps its address."""

from __future__ import annotations

import torch

from fp8load_kernels.padding import aligned, pad_columns, padded_weight


def test_aligned_sizes_stay_what_they_are() -> None:
    assert [aligned(n, 16) for n in (1, 15, 16, 17)] == [16, 16, 16, 32]
    weight = torch.ones(16, 32).to(torch.float8_e4m3fn)
    assert padded_weight(weight, 16) is weight
    assert pad_columns(weight, 32) is weight


def test_padding_is_zero_and_a_second_copy_goes_to_the_same_place() -> None:
    weight = torch.ones(3, 5).to(torch.float8_e4m3fn)
    buffer = padded_weight(weight, 16)
    assert tuple(buffer.shape) == (16, 16)
    assert buffer.float().sum() == 15
    again = padded_weight((weight.float() * 2).to(weight.dtype), 16, buffer)
    assert again.data_ptr() == buffer.data_ptr()
    assert again.float().sum() == 30


def test_a_product_of_padded_codes_is_the_product() -> None:
    x, w = (torch.randn(n, 5).to(torch.float8_e4m3fn) for n in (4, 3))
    wide = pad_columns(x, 16).float() @ padded_weight(w, 16).float().T
    assert torch.equal(wide[:, :3], x.float() @ w.float().T)
    assert not wide[:, 3:].any()
