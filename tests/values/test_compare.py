"""--against: distances are what their definition says, and a weight is found under whatever name the source has it."""

from __future__ import annotations

import json
from math import inf, isnan, log10
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import fp8load
from fp8load.checkpoint import Checkpoint
from fp8load.errors import UsageError
from fp8load.rules.samples import BLOCK, LLAMA, QUANTIZED
from fp8load.runtime.plain import dequantize_module
from fp8load.values.compare import Distance, compared, distance_of
from oracle.catalog import FOLDER
from rules.examples import checkpoint_of

STATIC = FOLDER / "afp8-llama128-static-kv"


class Given:
    """A matrix in memory."""

    def __init__(self, values) -> None:
        self.values = np.asarray(values, dtype=np.float32)

    @property
    def shape(self):
        return self.values.shape

    def rows(self, begin, end):
        return self.values[begin:end]


def of(checkpoint: Checkpoint, source: Checkpoint) -> dict[str, Distance]:
    return {distance.info.name: distance for distance in compared(checkpoint, source).distances}


def published(folder: Path, at: Path, *, rename=lambda name: name) -> Path:
    """What a quantized checkpoint could have been made of: its weights in BF16, quantized ones with a little noise."""
    noise = torch.Generator().manual_seed(1)
    at.mkdir()
    with fp8load.open(folder) as checkpoint:
        quantized = {name for name, info in checkpoint.lowered.modules.items() if info.scheme is not None}
        tensors = {}
        for name, tensor in checkpoint.plain_tensors():
            factor = 1 + torch.randn(tensor.shape, generator=noise) / 64
            tensors[rename(name)] = (tensor * factor if name[:-7] in quantized else tensor).bfloat16()
    config = json.loads((folder / "config.json").read_text())
    config.pop("quantization_config", None)
    (at / "config.json").write_text(json.dumps(config))
    save_file(tensors, at / "model.safetensors")
    return at


def edited(folder: Path, at: Path, change) -> Path:
    """A copy in which `change` has edited the bytes of tensors: name -> bytes."""
    at.mkdir()
    for path in folder.iterdir():
        if path.is_file():
            (at / path.name).write_bytes(path.read_bytes())
    with fp8load.open(at) as checkpoint:
        metas = checkpoint.index.tensors
        old = {name: checkpoint.source.read(meta.file, meta.begin, meta.end) for name, meta in metas.items()}
    for name, data in change(old).items():
        meta = metas[name]
        content = bytearray((at / meta.file).read_bytes())
        content[meta.begin : meta.end] = data
        (at / meta.file).write_bytes(bytes(content))
    return at


@pytest.mark.parametrize("band", [1, 7, 1 << 20])
def test_the_ratio_and_the_largest_error_are_what_their_definition_says(monkeypatch, band):
    monkeypatch.setattr("fp8load.values.compare.BAND", band)
    rng = np.random.default_rng(0)
    w = rng.standard_normal((13, 5)).astype(np.float32)
    v = (w + 0.01 * rng.standard_normal((13, 5))).astype(np.float32)
    error = w.astype(np.float64) - v

    sqnr, largest = distance_of(Given(v), Given(w))

    assert sqnr == pytest.approx(10 * log10((w.astype(np.float64) ** 2).sum() / (error**2).sum()))
    assert largest == pytest.approx(np.abs(error).max() / np.abs(w).max())


def test_edges_of_the_ratio():
    one, zero = Given([[1.0, -2.0]]), Given([[0.0, 0.0]])

    assert distance_of(one, one) == (inf, 0.0)
    assert distance_of(zero, zero) == (inf, 0.0)
    assert distance_of(one, zero)[0] == -inf
    assert distance_of(zero, one) == (0.0, 1.0)
    assert isnan(distance_of(Given([[float("nan"), 0.0]]), one)[0])
    assert isnan(distance_of(Given([[float("inf"), 0.0]]), one)[0])


def test_a_checkpoint_is_identical_to_itself(checkpoint: Path):
    with fp8load.open(checkpoint) as one, fp8load.open(checkpoint) as other:
        comparison = compared(one, other)

    assert comparison.distances
    assert all(distance.is_identical for distance in comparison.distances)
    assert comparison.only_here == comparison.only_there == ()


def test_rounding_is_no_finding_and_a_scale_swapped_between_siblings_is_one(tmp_path):
    source = fp8load.open(published(STATIC, tmp_path / "bf16"))
    names = [f"model.layers.1.mlp.{part}_proj.weight_scale" for part in ("gate", "up")]
    swapped = edited(STATIC, tmp_path / "swapped", lambda old: {names[0]: old[names[1]], names[1]: old[names[0]]})
    clean = fp8load.open(STATIC).verify(against=source)
    report = fp8load.open(swapped).verify(against=source)

    assert [f for f in clean.findings if f.severity != "info"] == []
    assert [f.severity for f in clean.findings if f.code == "F8L806"] == []
    (finding,) = [f for f in report.findings if f.code == "F8L806"]
    assert finding.severity == "error"
    assert finding.tensors == [name.removesuffix("_scale") for name in names]
    assert "F8L805" not in {f.code for f in report.findings}  # a factor of three is nothing without the source


def test_one_layer_that_is_coarser_than_the_others_stands_out(tmp_path):
    source = fp8load.open(published(STATIC, tmp_path / "bf16"))
    name = "model.layers.0.mlp.up_proj.weight"

    def coarser(old):  # without the lower two bits of the mantissa
        return {name: bytes(code & 0xFC for code in old[name])}

    report = fp8load.open(edited(STATIC, tmp_path / "coarse", coarser)).verify(against=source)
    (finding,) = [f for f in report.findings if f.code == "F8L806"]

    assert (finding.severity, finding.tensors) == ("warning", [name])


def test_a_source_saved_from_another_class_is_found_without_its_wrappers(tmp_path):
    source = published(STATIC, tmp_path / "bf16", rename=lambda name: name.replace("model.", "model.language_model."))
    distances = of(fp8load.open(STATIC), fp8load.open(source))

    assert len(distances) > 14
    assert all(distance.sqnr > 25 for distance in distances.values())


def halves(gate: float, up: float) -> dict[str, float]:
    return {"model.layers.0.mlp.gate_proj.weight": gate, "model.layers.0.mlp.up_proj.weight": up}


@pytest.mark.parametrize("name", ["hf-llama256-fp8-block", "hf-llama128-fbgemm", "mo-gptoss-fp8", "qk-llama128-mxfp4"])
def test_bands_of_rows_take_the_scales_of_their_rows(monkeypatch, tmp_path, name):
    source = published(FOLDER / name, tmp_path / "source") if name != "mo-gptoss-fp8" else FOLDER / name
    with fp8load.open(FOLDER / name) as here, fp8load.open(source) as there:
        whole = of(here, there)
        monkeypatch.setattr("fp8load.values.compare.BAND", 1000)
        in_bands = of(here, there)

    assert {name: distance.sqnr for name, distance in in_bands.items()} == pytest.approx(
        {name: distance.sqnr for name, distance in whole.items()}
    )


APART = "model.layers.0.mlp.{gate,up}_proj.weight  BF16  [64, 32]\n"
TOGETHER = "model.layers.0.mlp.gate_up_proj.weight  BF16  [128, 32]\n"


def test_a_layer_that_only_the_source_has_fused_is_compared_part_by_part(tmp_path):
    gate, up = (torch.randn(rows, 32, generator=torch.Generator().manual_seed(rows)) for rows in (64, 48))
    at = "model.layers.0.mlp."
    (tmp_path / "apart").mkdir()
    save_file({f"{at}gate_proj.weight": gate, f"{at}up_proj.weight": up / 2}, tmp_path / "apart" / "model.safetensors")
    save_file({f"{at}gate_up_proj.weight": torch.cat([gate, up])}, tmp_path / "model.safetensors")
    distances = of(fp8load.open(tmp_path / "apart"), fp8load.open(tmp_path))

    assert distances[f"{at}gate_proj"].is_identical
    assert distances[f"{at}up_proj"].sqnr == pytest.approx(20 * log10(2))


@pytest.mark.parametrize("band", [32, 32 * 50, 1 << 20])
def test_a_layer_that_only_the_source_has_apart_is_compared_as_a_whole(monkeypatch, band):
    monkeypatch.setattr("fp8load.values.compare.BAND", band)
    whole = checkpoint_of(TOGETHER, {"model.layers.0.mlp.gate_up_proj.weight": 0.5})
    comparison = compared(whole, checkpoint_of(APART, halves(0.5, 0.25)))
    (distance,) = comparison.distances

    assert distance.sqnr == pytest.approx(10 * log10((0.25 + 0.0625) / 0.0625))
    assert comparison.only_there == ()


def test_fused_layers_of_a_real_checkpoint_against_their_parts(tmp_path):
    """phi3 has q, k and v in one tensor; the source has three."""
    folder = FOLDER / "ct-phi3-fp8-static-kv"
    with fp8load.open(folder) as checkpoint:
        config = checkpoint.index.config
        whole = dequantize_module(checkpoint, "model.layers.0.self_attn.qkv_proj")
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        size = len(whole) // (heads + 2 * kv_heads)
        parts = whole.split([heads * size, kv_heads * size, kv_heads * size])
        names = [f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv"]
        save_file({name: part.clone() for name, part in zip(names, parts, strict=True)}, tmp_path / "model.safetensors")
        distances = of(checkpoint, fp8load.open(tmp_path))

    assert [name for name, found in distances.items() if found.is_identical] == ["model.layers.0.self_attn.qkv_proj"]


def test_what_only_one_of_them_has_is_listed_and_no_fault():
    report = checkpoint_of(LLAMA).verify(against=checkpoint_of(BLOCK + QUANTIZED + "extra.weight BF16 [8, 8]\n"))

    assert report.against is not None
    assert (report.against.num_only_there, report.against.only_there) == (1, ["extra"])
    assert report.against.num_only_here == len(report.against.only_here) == 8


def test_comparing_takes_level_weights():
    source = checkpoint_of(LLAMA)

    assert checkpoint_of(LLAMA).verify(against=source).level == "weights"
    with pytest.raises(UsageError, match="level weights"):
        checkpoint_of(LLAMA).verify("scales", against=source)


def test_json_has_a_number_for_each_weight(tmp_path):
    source = fp8load.open(published(STATIC, tmp_path / "bf16"))
    against = json.loads(fp8load.open(STATIC).verify(against=source).to_json())["against"]

    assert against["source"]["id"] == str(tmp_path / "bf16")
    assert against["compared"] == len(against["modules"]) == 16
    assert [(entry["scheme"], entry["count"]) for entry in against["schemes"]] == [("F8_E4M3 per tensor", 14)]
    assert all(module["identical"] or 25 < module["sqnr_db"] < 45 for module in against["modules"])
    assert against["read"]["nbytes"] > 100_000
