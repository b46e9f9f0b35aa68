"""One scale for all parts of a fused layer is a choice: lossy, in float32, and never made unasked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import fp8load
from fp8load.errors import UsageError

FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "checkpoints"
NAME = "model.layers.0.self_attn.qkv_proj"


def test_by_default_every_part_keeps_its_scale() -> None:
    scale = fp8load.load(FOLDER / "mo-llama128-fp8-kv")[NAME].weight_scale

    assert len(set(scale.tolist())) == 3


def test_max_gives_all_parts_the_largest_scale_and_rounds_each_weight_once() -> None:
    exact = fp8load.load(FOLDER / "mo-llama128-fp8-kv")[NAME]
    lossy = fp8load.load(FOLDER / "mo-llama128-fp8-kv", requantize="max")[NAME]
    largest = exact.weight_scale.max().item()

    w_NK = exact.dequantize().numpy() / np.float32(largest)
    expected = torch.from_numpy(w_NK).to(torch.float8_e4m3fn).float() * largest

    assert set(lossy.weight_scale.tolist()) == {largest}
    assert torch.equal(lossy.dequantize(), expected)
    assert not torch.equal(lossy.dequantize(), exact.dequantize())
    x = torch.randn(5, 128)
    reference = fp8load.load(FOLDER / "mo-llama128-fp8-kv", requantize="max", backend="reference")[NAME]
    torch.testing.assert_close(reference(x), x @ expected.T)


def test_layers_of_another_granularity_and_of_one_part_stay_as_they_are() -> None:
    for name in ("hf-llama256-fp8-block", "ct-llamaodd-fp8-dynamic"):
        exact, asked = fp8load.load(FOLDER / name), fp8load.load(FOLDER / name, requantize="max")
        for module in exact:
            assert torch.equal(exact[module].dequantize(), asked[module].dequantize()), module


def test_another_word_than_max_is_refused() -> None:
    with pytest.raises(UsageError, match="mean"):
        fp8load.load(FOLDER / "mo-llama128-fp8-kv", requantize="mean")
