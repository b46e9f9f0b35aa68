"""What the pass over weights finds: in every dtype, wherever it lies, and the same however the bytes are cut."""

from __future__ import annotations

import numpy as np
import pytest

import fp8load
from fp8load.dtypes import DType, decode_table
from fp8load.rules.samples import BLOCK, NVFP4, NVFP4_GATE_UP, QUANTIZED, STATIC
from fp8load.rules.weights import WeightReader
from oracle.catalog import FOLDER, expected_findings
from rules.examples import checkpoint_of, written

WEIGHT = "model.layers.0.mlp.down_proj.weight"
SCALE = WEIGHT + "_scale_inv"
FP8 = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
LAYERS = QUANTIZED.replace("layers.0", "layers.{0..1}")


def stats_of(skeleton, values=None, files=None):
    return {stats.meta.name: stats for stats in WeightReader(checkpoint_of(skeleton, values, files)).stats}


def one(dtype: str, data: bytes):
    """The statistics of one tensor [8, n] of `dtype` that is no module's weight, with these bytes."""
    skeleton = STATIC + f"table.codes  {dtype}  [8, {len(data) // 8}]\n"
    stored = written(skeleton, {})["model.safetensors"]
    return stats_of(skeleton, files={"model.safetensors": stored[: len(stored) - len(data)] + data})["table.codes"]


@pytest.mark.parametrize("dtype", FP8)
@pytest.mark.parametrize("chunk", [7, 100, 1 << 20])
def test_codes_are_counted_as_their_values_say(monkeypatch, dtype, chunk):
    monkeypatch.setattr("fp8load.rules.weights.CHUNK", chunk)
    codes = np.random.default_rng(5).integers(0, 256, 512, dtype=np.uint8)
    values = decode_table(DType(dtype))[codes]
    finite = np.isfinite(values)
    stats = one(dtype, codes.tobytes())

    assert stats.num_bad == (~finite).sum()
    assert stats.first_bad == (int((~finite).argmax()) if not finite.all() else -1)
    assert stats.largest == np.abs(values[finite]).max()
    assert not stats.is_zero


@pytest.mark.parametrize("dtype", FP8)
def test_every_single_code_is_judged_right(dtype):
    for code in range(256):
        value = decode_table(DType(dtype))[code]
        stats = one(dtype, bytes([code]) * 8)

        assert stats.num_bad == (0 if np.isfinite(value) else 8), code
        assert stats.largest == (abs(value) if np.isfinite(value) else 0), code
        assert stats.is_zero == (value == 0), code


def test_negative_zeros_are_zeros():
    name = "model.layers.0.mlp.gate_proj.weight"
    files = written(NVFP4 + NVFP4_GATE_UP, {})
    meta = checkpoint_of(NVFP4 + NVFP4_GATE_UP).index.tensors[name]
    data = bytearray(files["model.safetensors"])
    data[meta.begin : meta.end] = b"\x80\x08" * (meta.nbytes // 2)

    assert stats_of(NVFP4 + NVFP4_GATE_UP, files={"model.safetensors": bytes(data)})[name].is_zero


def test_the_size_of_a_weight_is_that_of_all_of_it(monkeypatch):
    monkeypatch.setattr("fp8load.rules.weights.NUM_SAMPLES", 1 << 30)
    codes = np.array(list(range(0x7F)) + list(range(0x80, 0xFF)), dtype=np.uint8)
    square = np.square(decode_table(DType.F8_E4M3)[np.resize(codes, 256 * 256)].astype(np.float64))
    stats = stats_of(BLOCK + QUANTIZED, {SCALE: 0.5})[WEIGHT]

    assert stats.rms == pytest.approx(0.5 * square.mean() ** 0.5)


def test_rows_of_every_piece_take_their_own_scales(monkeypatch):
    skeleton = BLOCK.replace("[128, 128]", "[4, 128]")
    skeleton += "m.q_proj.weight F8_E4M3 [64, 64]\nm.q_proj.weight_scale_inv F32 [16, 1]\n"
    files = written(skeleton, {})
    meta = checkpoint_of(skeleton).index.tensors["m.q_proj.weight_scale_inv"]
    data = bytearray(files["model.safetensors"])
    data[meta.begin : meta.end] = (2.0 ** -np.arange(16)).astype("<f4").tobytes()
    whole = stats_of(skeleton, files={"model.safetensors": bytes(data)})["m.q_proj.weight"].rms
    monkeypatch.setattr("fp8load.rules.weights.CHUNK", 640)

    assert whole > 0
    assert stats_of(skeleton, files={"model.safetensors": bytes(data)})["m.q_proj.weight"].rms == pytest.approx(whole)


def test_a_sample_of_rows_gives_nearly_the_same_size(monkeypatch):
    whole = stats_of(BLOCK + QUANTIZED)[WEIGHT].rms
    monkeypatch.setattr("fp8load.rules.weights.NUM_SAMPLES", 256 * 20)
    monkeypatch.setattr("fp8load.rules.weights.CHUNK", 5000)

    assert stats_of(BLOCK + QUANTIZED)[WEIGHT].rms == pytest.approx(whole, rel=0.2)


def test_a_code_in_a_stacked_expert_is_placed_in_the_whole_tensor():
    config = STATIC.replace('"quantization_config"', '"num_local_experts": 3, "quantization_config"')
    skeleton = config + (
        "model.layers.0.mlp.experts.down_proj         F8_E4M3  [3, 128, 128]\n"
        "model.layers.0.mlp.experts.down_proj_scale   F32      [3, 1, 1]\n"
    )
    files = written(skeleton, {})
    meta = checkpoint_of(skeleton).index.tensors["model.layers.0.mlp.experts.down_proj"]
    data = bytearray(files["model.safetensors"])
    data[meta.begin + 2 * 128 * 128 + 5] = 0x7F
    report = checkpoint_of(skeleton, files={"model.safetensors": bytes(data)}).verify("weights")
    (finding,) = [finding for finding in report.findings if finding.code == "F8L801"]

    assert finding.tensors == ["model.layers.0.mlp.experts.down_proj"]
    assert finding.got.endswith(f"the first at element {2 * 128 * 128 + 5:,}")


def test_a_file_whose_end_was_never_written_is_an_error():
    files = written(BLOCK + LAYERS, {})
    data = files["model.safetensors"]
    hole = data[: len(data) * 2 // 3] + bytes(len(data) - len(data) * 2 // 3)
    report = checkpoint_of(BLOCK + LAYERS, files={"model.safetensors": hole}).verify("weights")

    assert [f.file for f in report.findings if f.code == "F8L803"] == ["model.safetensors"]


def test_a_few_pages_of_zeros_at_the_end_are_padding():
    files = written(BLOCK + LAYERS, {})
    data = files["model.safetensors"]
    report = checkpoint_of(BLOCK + LAYERS, files={"model.safetensors": data[:-20000] + bytes(20000)}).verify("weights")

    assert [f for f in report.findings if f.code == "F8L803"] == []


def test_a_scale_of_another_export_is_found_in_a_real_checkpoint_of_two_layers(tmp_path):
    """The layer's scale is 100 times too large; every shape and dtype is as it was."""
    for path in (FOLDER / "afp8-llama128-static-kv").iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    meta = fp8load.open(tmp_path).index.tensors["model.layers.1.mlp.down_proj.weight_scale"]
    data = bytearray((tmp_path / meta.file).read_bytes())
    scale = np.frombuffer(bytes(data[meta.begin : meta.end]), "<f4")
    data[meta.begin : meta.end] = (scale * 100).astype("<f4").tobytes()
    (tmp_path / meta.file).write_bytes(bytes(data))
    report = fp8load.open(tmp_path).verify("weights")

    assert [f.tensors for f in report.findings if f.code == "F8L805"] == [["model.layers.1.mlp.down_proj.weight"]]


FOLDERS = sorted(path for path in FOLDER.iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_checkpoint_is_as_loud_as_expected(folder):
    """Those of four bits, of integers and of experts too."""
    report = fp8load.open(folder).verify("weights")
    allowed = expected_findings(folder.name)
    loud = {finding.code for finding in report.findings if finding.severity != "info"}

    assert loud <= {*allowed.get("must", ()), *allowed.get("may", ())}, report.findings
    assert report.summary.crashed == []


def test_three_default_scales_of_four_are_no_default():
    skeleton = STATIC + (
        "model.layers.{0..3}.self_attn.q_proj.weight                      F8_E4M3  [64, 64]\n"
        "model.layers.{0..3}.self_attn.q_proj.{weight_scale,input_scale}  F32      []\n"
    )
    values = {f"model.layers.{layer}.self_attn.q_proj.weight_scale": 2.0**-layer for layer in range(4)}
    values["model.layers.2.self_attn.q_proj.input_scale"] = 0.25

    assert "F8L704" not in {finding.code for finding in checkpoint_of(skeleton, values).verify().findings}
