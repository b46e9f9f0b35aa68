"""verify --fix and --diff: where the words go, what the exit code means, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fp8load.rules.samples import BLOCK, QUANTIZED
from fp8load_cli.fixing import with_value
from rules.repair_cases import CASES, SCALE, Case
from rules.test_repairs import on_disk

from .conftest import CLEAN

FAULTY = "fixtures/checkpoints/ar-llama128-fp8static-llmc"
SOUND = "fixtures/checkpoints/ct-phi3-fp8-static-kv"


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["--fix", "x"], ["--fix=all", "x"]), (["--fix", "--out", "d"], ["--fix=all", "--out", "d"]),
     (["x", "--fix"], ["x", "--fix=all"]), (["--fix", "F8L202", "x"], ["--fix", "F8L202", "x"]),
     (["--fix", "f8l2,ACME001", "x"], ["--fix", "f8l2,ACME001", "x"]), (["--fix", "all", "x"], ["--fix", "all", "x"]),
     (["--fix=F8L2"], ["--fix=F8L2"]), (["--fix", "./F8L2"], ["--fix=all", "./F8L2"]), (["--diff"], ["--diff"])],
)  # fmt: skip
def test_fix_takes_codes_and_no_source_for_one(words, expected):
    assert with_value(words) == expected


def test_a_repaired_copy_is_written_and_reported_on(run, tmp_path):
    result = run("verify", "--fix", FAULTY, "--out", tmp_path / "new", "--json")
    report = json.loads(result.out)

    assert result.code == 0
    assert report["source"]["id"] == str(tmp_path / "new")
    assert report["fixed"] == [{"code": "F8L302", "title": "adds the module to the ignore list", "count": 1}]
    assert report["summary"]["error"] == 0
    assert "fixed 1 x F8L302" in result.err
    assert run("verify", tmp_path / "new").code == 0


def test_a_diff_goes_to_stdout_and_is_a_no_where_there_is_something(run):
    result = run("verify", FAULTY, "--diff")

    assert result.code == 1
    assert result.out.startswith("--- a/config.json\n+++ b/config.json\n")
    assert run("verify", SOUND, "--diff").code == 0
    assert run("verify", SOUND, "--diff").out == ""


def test_a_repair_that_finds_nothing_to_do_says_why(run, tmp_path):
    """Two scales of one weight that differ: the report offers what only a look at their bytes can tell."""
    case = Case(CASES["F8L203"].skeleton, values={SCALE: 0.5})
    folder = on_disk(case, tmp_path / "faulty")
    result = run("verify", folder, "--fix", "--out", tmp_path / "new")

    assert "`--fix` drops one of two scales that are equal" in run("verify", folder, "--json").out
    repair = "drops one of two scales that are equal, or renames one"
    why = f"they differ, and nobody can say which is meant (the repair {repair})"
    assert f"cannot fix 1 x F8L203: {why}\n" in result.err
    assert "nothing was repaired" in result.err
    assert result.code == 1
    assert not (tmp_path / "new").exists()


def test_what_only_an_engine_finds_is_repaired_where_it_is_named(run, tmp_path):
    case = Case(BLOCK + QUANTIZED, values={"model.layers.0.mlp.down_proj.weight_scale_inv": 0.003})
    words = ("verify", on_disk(case, tmp_path / "stored"), "--fix", "F8L707", "--diff")

    assert "nothing to repair" in run(*words).err
    assert "would fix 1 x F8L707" in run(*words, "--engine", "vllm@0.33", "--arch", "sm100").err


def test_what_is_left_out_is_not_repaired(run):
    assert run("verify", FAULTY, "--diff", "--ignore", "F8L302").out == ""
    assert run("verify", FAULTY, "--diff", "--fix", "F8L2").out == ""


def test_what_the_configuration_ignores_is_not_repaired(run, tmp_path):
    (tmp_path / "fp8load.toml").write_text('ignore = ["F8L3"]\n')

    assert run("verify", FAULTY, "--diff", "--config", tmp_path / "fp8load.toml").out == ""


def test_a_copy_is_not_written_where_nothing_is_to_be_repaired(run, tmp_path):
    result = run("verify", SOUND, "--fix", "--out", tmp_path / "new")

    assert result.code == 0
    assert "nothing to repair" in result.err
    assert not (tmp_path / "new").exists()


def test_faults_that_stay_are_the_exit_code(run, tmp_path):
    shutil.copytree(FAULTY, tmp_path / "bad")
    config = json.loads((tmp_path / "bad" / "config.json").read_text())
    (tmp_path / "bad" / "config.json").write_text(json.dumps(config | {"hidden_size": 96}))
    result = run("verify", tmp_path / "bad", "--fix", "--out", tmp_path / "new")

    assert result.code == 1
    assert (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "words",
    [("--fix",), ("--out", "d"), ("--fix", "--diff", "--out", "d"), ("--diff", "--json"), ("--fix", "F8L999", "--diff"),
     ("--fix", "--out", "fixtures")],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(run, words):
    result = run("verify", FAULTY, *words)

    assert result.code == 2
    assert not Path("d").exists()


def test_a_skeleton_has_nothing_to_repair(run):
    assert run("verify", CLEAN, "--diff").code == 2
