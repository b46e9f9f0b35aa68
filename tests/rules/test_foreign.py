"""Scales of another weight are found by what they do; models whose layers differ are no alarm."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fp8load
from fp8load.dtypes import LARGEST_FINITE, DType
from fp8load.report import Finding
from fp8load.rules.pieces import correlated
from oracle.dequantize import Stored
from oracle.rewrite import write_file

LAYERS, N, K = 12, 96, 64
KINDS = {"self_attn.q_proj": 0.02, "self_attn.o_proj": 0.008, "mlp.up_proj": 0.05}
E4M3 = [value for value in np.sort(np.unique(np.abs(
    [(-1) ** s * (m / 8 * 2.0**-6 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7))
     for s in range(2) for e in range(16) for m in range(8) if (e, m) != (15, 7)]
)))]  # fmt: skip


def encoded(values: np.ndarray) -> bytes:
    """The nearest E4M3 code of each value; codes of one sign grow with their values."""
    table = np.array(E4M3)
    at = np.abs(values).clip(0, table[-1])
    code = np.searchsorted((table[1:] + table[:-1]) / 2, at)
    return (code | np.where(values < 0, 0x80, 0)).astype(np.uint8).tobytes()


def model(sizes: dict[str, float], *, per_row: bool, seed: int = 0) -> dict[str, Stored]:
    """Weights of the sizes that are given, with outliers in some rows, quantized by the largest magnitude."""
    rng = np.random.default_rng(seed)
    stored: dict[str, Stored] = {}
    for name, size in sizes.items():
        weight = rng.normal(0, size, (N, K)) * np.exp2(rng.normal(0, 0.5, (N, 1)))
        weight[np.arange(N), rng.integers(0, K, N)] *= np.exp2(rng.uniform(0, 3, N))
        amax = np.abs(weight).max(1, keepdims=True) if per_row else np.abs(weight).max(keepdims=True)
        scale = (amax / LARGEST_FINITE[DType.F8_E4M3]).astype("<f4")
        stored[f"{name}.weight"] = Stored("F8_E4M3", (N, K), encoded(weight / scale))
        shape = (N, 1) if per_row else (1,)
        stored[f"{name}.weight_scale"] = Stored("F32", shape, scale.reshape(shape).tobytes())
    return stored


def usual(layers: int = LAYERS, spread: float = 0.05) -> dict[str, float]:
    rng = np.random.default_rng(7)
    return {
        f"model.layers.{layer}.{kind}": size * float(np.exp2(rng.normal(0, spread)))
        for layer in range(layers)
        for kind, size in KINDS.items()
    }


def findings(folder: Path, stored: dict[str, Stored], *, per_row: bool) -> list[Finding]:
    weights = {"num_bits": 8, "type": "float", "strategy": "channel" if per_row else "tensor", "symmetric": True}
    document = {"quantization_config": {
        "quant_method": "compressed-tensors", "format": "float-quantized", "ignore": [],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}},
    }}  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(document))
    write_file(folder / "model.safetensors", stored)
    return [finding for finding in fp8load.open(folder).verify("weights").findings if finding.code == "F8L807"]


def exchanged(stored: dict[str, Stored], one: str, two: str) -> dict[str, Stored]:
    first, second = f"{one}.weight_scale", f"{two}.weight_scale"
    return {**stored, first: stored[second], second: stored[first]}


@pytest.mark.parametrize("per_row", [False, True])
def test_a_sound_model_is_no_alarm(tmp_path: Path, *, per_row: bool) -> None:
    assert findings(tmp_path / "it", model(usual(), per_row=per_row), per_row=per_row) == []


def unlike(name: str) -> float:
    """The first layers are larger, the last smaller; every fourth is of another kind; layer 7 is three times larger."""
    layer = int(name.split(".")[2])
    return {0: 3.5, 1: 2.0, LAYERS - 1: 0.4}.get(layer, 1.0) * (1.6 if layer % 4 == 3 else 1) * (3 if layer == 7 else 1)


@pytest.mark.parametrize("per_row", [False, True])
def test_layers_that_differ_as_a_whole_are_no_alarm(tmp_path: Path, *, per_row: bool) -> None:
    sizes = {name: size * unlike(name) for name, size in usual().items()}

    assert findings(tmp_path / "it", model(sizes, per_row=per_row), per_row=per_row) == []


@pytest.mark.parametrize(("one", "two"), [
    ("model.layers.4.self_attn.o_proj", "model.layers.4.mlp.up_proj"),
    ("model.layers.3.mlp.up_proj", "model.layers.8.self_attn.o_proj"),
])  # fmt: skip
@pytest.mark.parametrize("per_row", [False, True])
def test_two_that_were_exchanged_are_named_with_each_other(
    tmp_path: Path, one: str, two: str, *, per_row: bool
) -> None:
    stored = exchanged(model(usual(), per_row=per_row), one, two)

    found = findings(tmp_path / "it", stored, per_row=per_row)

    assert {name for finding in found for name in finding.tensors} == {f"{one}.weight_scale", f"{two}.weight_scale"}
    assert all("with the scale of" in finding.got for finding in found)


def test_rows_tell_of_scales_of_the_right_size(tmp_path: Path) -> None:
    one, two = "model.layers.5.mlp.up_proj", "model.layers.6.mlp.up_proj"
    stored = exchanged(model(usual(spread=0.0), per_row=True), one, two)

    found = findings(tmp_path / "it", stored, per_row=True)

    assert {name for finding in found for name in finding.tensors} == {f"{one}.weight_scale", f"{two}.weight_scale"}
    assert all("with the scale of" in finding.got for finding in found)


def test_the_siblings_of_two_that_were_exchanged_are_not_blamed(tmp_path: Path) -> None:
    """In two layers either pair could have been exchanged, by their sizes; their pieces tell which."""
    one, two = "model.layers.0.self_attn.o_proj", "model.layers.0.mlp.up_proj"
    sizes = {f"model.layers.{layer}.{kind}": size for layer in range(2) for kind, size in KINDS.items()}
    stored = exchanged(model(sizes, per_row=True), one, two)

    found = findings(tmp_path / "it", stored, per_row=True)

    assert {name for finding in found for name in finding.tensors} == {f"{one}.weight_scale", f"{two}.weight_scale"}


def test_a_stale_scale_is_named_alone(tmp_path: Path) -> None:
    stored = model(usual(), per_row=False)
    name = "model.layers.5.mlp.up_proj.weight_scale"
    stored[name] = Stored("F32", (1,), (np.frombuffer(stored[name].data, "<f4") * 3).tobytes())

    (finding,) = findings(tmp_path / "it", stored, per_row=False)

    assert finding.tensors == (name,) or finding.tensors == [name]
    assert "times larger" in finding.got
    assert "with the scale of" not in finding.got


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 1), st.floats(-8, 8))
def test_own_scales_go_against_the_codes_and_others_do_not(seed: int, spread: float, level: float) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(level, spread, 400)
    outlier = rng.uniform(1.5, 3, 400)  # log2 of amax over rms
    scales, sizes = rows + outlier, -outlier

    assert correlated(scales, sizes) < -0.2
    assert abs(correlated(rng.permutation(scales), sizes)) < 0.3
