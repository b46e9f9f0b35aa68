"""`verify --against`: the section of the report, in each format that people read, and what cannot be asked."""

from __future__ import annotations

import json

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
