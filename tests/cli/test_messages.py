"""What a user meets who mistypes, runs out of disk, or stands in a deleted folder: one message with a next step."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fp8load_cli.run import explained_by_rule

from .conftest import BROKEN, CLEAN, ROOT, bare, shell

SPREAD = "fixtures/checkpoints/hf-llamaodd-fp8-block-16x8"
SINGLE = "fixtures/checkpoints/qk-llama128-fp8-modefp8"


def test_a_finding_that_spans_files_does_not_blame_the_first_alone(run):
    text = run("verify", SPREAD, "--select", "F8L202").out
    finding = json.loads(run("verify", SPREAD, "--select", "F8L202", "--json").out)["findings"][0]

    assert "model-00002-of-00005.safetensors and 3 others: " in text
    assert finding["file"] == finding["files"][0]
    assert len(finding["files"]) == 4


def test_unfolded_findings_name_no_file_that_is_not_theirs(run):
    findings = json.loads(run("verify", SPREAD, "--select", "F8L202", "--no-group", "--json").out)["findings"]

    assert [finding["files"] for finding in findings] == [["model-00002-of-00005.safetensors"], [], [], []]


def test_text_shows_what_is_wrong_before_what_is_worth_knowing(run):
    text = run("verify", BROKEN).out
    order = [line.partition("[")[0] for line in text.splitlines() if line.startswith(("error[", "warning[", "info["))]

    assert order == sorted(order, key=["error", "warning", "info"].index)
    assert "error" in order


def test_a_limit_on_findings_keeps_the_errors(run):
    shown = json.loads(run("verify", SPREAD, "--max-findings", "1", "--json").out)["findings"]

    assert [finding["severity"] for finding in shown] == ["error"]


def test_nothing_suggests_a_command_that_does_not_exist(run):
    """In the rules' pages; sources are searched, because a hint may wait for a rare fault."""
    import re

    from fp8load_cli.commands import COMMANDS

    files = [*ROOT.glob("fp8load/**/*.py"), *ROOT.glob("cli/**/*.py"), *ROOT.glob("docs/**/*.md"), ROOT / "README.md"]
    named = {word for file in files for word in re.findall(r"`fp8load ([a-z][a-z-]+)", file.read_text("utf-8"))}

    assert named <= set(COMMANDS), named - set(COMMANDS)


@pytest.mark.parametrize("code", ["SRC001", "use010", "FILL701"])
def test_the_code_of_an_error_is_not_taken_for_a_mistyped_rule(run, code):
    result = run("rule", code)

    assert result.code == 2
    assert "belongs to an error" in result.err
    assert "did you mean" not in result.err


def test_an_error_without_a_hint_of_its_own_points_at_its_rule():
    assert explained_by_rule("F8L002") == "`fp8load rule F8L002` explains it"
    assert explained_by_rule("PLAN006") == ""


@pytest.mark.parametrize("command", ["inspect", "verify", "plan"])
def test_a_configuration_file_that_is_named_has_to_exist(run, command):
    result = run(command, CLEAN, "--config", "no-such.toml")

    assert result.code == 2
    assert "no-such.toml" in result.err
    assert "--config" in result.err


@pytest.mark.parametrize(
    "words", [("--depth", "2"), ("--skeleton", "--module", "**"), ("--skeleton", "--tree"), ("--skeleton", "--json")]
)
def test_an_option_that_would_do_nothing_is_refused(run, words):
    result = run("inspect", CLEAN, *words)

    assert result.code == 2
    assert "`fp8load inspect -h`" in result.err


def test_a_pattern_that_matches_no_module_is_repeated(run):
    assert "No module matches lm_heat" in run("inspect", CLEAN, "--module", "lm_heat").out


def test_numbers_are_asked_for_in_plain_words(run):
    assert "'--tp': it should be a whole number" in run("plan", CLEAN, "--tp", "x").err
    assert "'--tp': it should be at least 1" in run("plan", CLEAN, "--tp", "0").err


def test_explain_knows_modules_and_parameters_by_their_names(run):
    module = run("plan", CLEAN, "--explain", "model.layers.0.mlp.up_proj")
    parameter = run("plan", CLEAN, "--explain", "model.layers.0.mlp.gate_up_proj.weight")

    assert "did you mean model.layers.0.mlp.up_proj.weight?" in module.err
    assert "made of model.layers.0.mlp.gate_proj.weight, model.layers.0.mlp.up_proj.weight" in parameter.err


@pytest.mark.parametrize("text", ["[]", '{"a": ', None])
def test_a_baseline_that_is_none_says_how_to_make_one(run, tmp_path, text):
    path = tmp_path / "known.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    result = run("verify", CLEAN, "--baseline", path)

    assert result.code == 2
    assert "--write-baseline known.json" in result.err
    assert "Error" not in result.err


def test_weights_that_nobody_described_are_not_called_unquantized(run, tmp_path):
    shutil.copy(ROOT / SINGLE / "model.safetensors", tmp_path)
    text = run("inspect", tmp_path).out

    assert "from nowhere" not in text
    assert "Not quantized" not in text
    assert "Modules, as stored" in text


def test_a_link_to_itself_does_not_hide_the_checkpoint_beside_it(run, tmp_path):
    shutil.copy(ROOT / SINGLE / "model.safetensors", tmp_path)
    (tmp_path / "loop").symlink_to("loop")

    assert run("inspect", tmp_path).code == 0
    assert run("inspect", tmp_path / "model.safetensors").code == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [("verify", CLEAN), ("rule", "--all"), ("-h",), ("inspect", "no/such", "--json")])
def test_a_full_disk_is_one_message(words):
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            [sys.executable, "-m", "fp8load", *words], stdout=full, stderr=subprocess.PIPE, env=bare(), cwd=ROOT,
            timeout=60, check=False,
        )  # fmt: skip

    assert done.returncode == 3
    assert b"Traceback" not in done.stderr
    assert b"BUG001" not in done.stderr


def test_a_deleted_folder_is_no_obstacle(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"cd {gone} && rmdir {gone} && {sys.executable} -m fp8load verify {ROOT / CLEAN} -q"
    done = subprocess.run(["sh", "-c", script], capture_output=True, env=bare(), timeout=60, check=False)

    assert done.returncode == 0, done.stderr


def test_vv_says_what_was_opened():
    assert b"fp8load.cli: opened" in shell("verify", CLEAN, "-vv").stderr


@pytest.mark.parametrize(
    ("given", "said"), [(b"", "has no tensor"), (b"\x00\xff\xfe", "is not UTF-8"), (b"# x\n", "no tensor")]
)
def test_a_pipe_that_brings_no_skeleton_is_not_called_sane(given, said):
    command = [sys.executable, "-m", "fp8load", "verify", "-"]
    done = subprocess.run(command, input=given, capture_output=True, env=bare(), cwd=ROOT, timeout=60, check=False)

    assert done.returncode == 3
    assert said in done.stderr.decode()
    assert "--skeleton` writes one" in done.stderr.decode()


def test_a_mistyped_option_is_an_envelope_where_the_environment_asks_for_json(run, monkeypatch):
    monkeypatch.setenv("FP8LOAD_FORMAT", "json")

    assert json.loads(run("inspect", CLEAN, "--tre").out)["code"] == "USE000"
