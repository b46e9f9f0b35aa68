"""`verify --against`: the section of the report, in each format that people read, and what cannot be asked."""

from __future__ import annotations

import json
import shutil

from oracle.catalog import FOLDER

HERE, THERE = str(FOLDER / "ct-llama128-fp8-static"), str(FOLDER / "mo-llama128-fp8-kv")


def test_the_report_has_a_row_for_each_scheme(run):
    result = run("verify", HERE, "--against", THERE)

    assert result.code == 0
    assert f"Against {THERE}:" in result.out
    assert "16 weights compared, 4 identical" in result.out
    assert "F8_E4M3 per tensor" in result.out
    assert "the lowest is" in run("verify", HERE, "--against", THERE, "-f", "md").out


def test_without_a_source_nothing_is_said_of_one(run):
    assert "Against" not in run("verify", HERE).out
    assert json.loads(run("verify", HERE, "--json").out)["against"] is None


def test_json_has_every_weight(run):
    document = json.loads(run("verify", HERE, "--against", THERE, "--json").out)

    assert document["level"] == "weights"
    assert len(document["against"]["modules"]) == 16


def test_a_lower_level_and_a_source_contradict_each_other(run):
    result = run("verify", HERE, "--against", THERE, "--level", "scales")

    assert result.code == 2
    assert "level weights" in result.err


def test_a_source_that_is_not_there_is_no_answer(run, tmp_path):
    assert run("verify", HERE, "--against", str(tmp_path / "nothing")).code == 3


def test_what_could_not_be_compared_is_named(run, tmp_path):
    data = bytearray((FOLDER / "afp8-llama128-static-kv" / "model.safetensors").read_bytes())
    length = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + length])["model.layers.1.mlp.up_proj.weight_scale"]["data_offsets"]
    data[8 + length + begin : 8 + length + end] = b"\0\0\xc0\x7f"  # NaN
    (tmp_path / "model.safetensors").write_bytes(data)
    shutil.copy(FOLDER / "afp8-llama128-static-kv" / "config.json", tmp_path)

    result = run("verify", str(tmp_path), "--against", THERE, "--select", "F8L806", "--fail-on", "warning")

    assert result.code == 1
    assert "not compared: 1 weight, model.layers.1.mlp.up_proj" in result.out
