"""The pre-commit hook and the GitHub action: their files are well formed, and what they run answers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fp8load_cli import hook
from under_test import pythonpath

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINTS = ROOT / "fixtures" / "checkpoints"
SOUND, FAULTY = CHECKPOINTS / "ct-phi3-fp8-static-kv", CHECKPOINTS / "hf-llamaodd-fp8-block-16x8"


def fields(text: str) -> dict[str, str]:
    """Keys of the only entry of a simple YAML list."""
    return dict(re.findall(r"^(?:- |  )(\w+): (.+)$", text, re.MULTILINE))


def steps(text: str) -> list[str]:
    """The scripts of an action's steps."""
    blocks = re.findall(r"^      run: \|\n((?:        .*\n?)+)", text, re.MULTILINE)
    return ["\n".join(line[8:] for line in block.splitlines()) for block in blocks]


@pytest.mark.parametrize(
    ("name", "matches"),
    [("a/model.safetensors", True), ("model.safetensors.index.json", True), ("a/config.json", True), ("x.skel", True),
     ("hf_quant_config.json", True), ("tsconfig.json", False), ("config.json.bak", False), ("README.md", False)],
)  # fmt: skip
def test_the_hook_is_asked_about_files_of_checkpoints(name, matches):
    pattern = fields((ROOT / ".pre-commit-hooks.yaml").read_text())["files"]

    assert bool(re.search(pattern, name)) == matches


def test_the_hook_has_what_pre_commit_requires():
    entry = fields((ROOT / ".pre-commit-hooks.yaml").read_text())

    assert {"id", "name", "entry", "language"} <= entry.keys()
    assert entry["language"] == "python"
    assert entry["entry"] == f"python -m {hook.__name__}"


def test_a_checkpoint_is_verified_once_whatever_of_it_has_changed(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    files = [SOUND / "config.json", SOUND / "model.safetensors", tmp_path / "config.json", "x.skel"]

    assert list(hook.sources(map(str, files))) == [str(SOUND), "x.skel"]


def test_the_hook_answers_with_the_worst_exit_code(capsys):
    assert hook.main(["--fail-on=error", str(SOUND / "config.json")]) == 0
    assert hook.main([str(SOUND / "config.json"), str(FAULTY / "config.json")]) == 1
    assert hook.main(["README.md"]) == 0
    assert "F8L202" in capsys.readouterr().out


def test_the_action_passes_every_input_through_the_environment():
    text = (ROOT / "action.yml").read_text()
    inputs = set(re.findall(r"^  (\w+):$", text.partition("runs:")[0], re.MULTILINE))

    assert inputs == set(re.findall(r"inputs\.(\w+)", text))
    assert all("${{" not in script for script in steps(text))  # what users type is never part of a script
    assert text.count("shell: bash") == len(steps(text)) == 2


@pytest.mark.parametrize(("source", "code"), [(SOUND, 0), (FAULTY, 1)])
def test_the_action_annotates_and_writes_its_files(tmp_path, source, code):
    bash = shutil.which("bash")
    program = tmp_path / "fp8load" / "bin" / "fp8load"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fp8load "$@"\n')
    program.chmod(0o755)
    summary = tmp_path / "summary.md"
    environment = {
        **os.environ, "PYTHONPATH": pythonpath(), "RUNNER_TEMP": str(tmp_path), "GITHUB_STEP_SUMMARY": str(summary),
        "SOURCE": str(source), "ARGUMENTS": "--level scales --tp 1", "SARIF": str(tmp_path / "out.sarif"),
        "HTML": str(tmp_path / "out.html"), "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    script = steps((ROOT / "action.yml").read_text())[1]
    done = subprocess.run(
        [bash, "-eo", "pipefail", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip

    assert done.returncode == code, done.stderr
    assert ("::error" in done.stdout) == bool(code)
    assert (tmp_path / "out.sarif").read_text().startswith("{")
    assert (tmp_path / "out.html").read_text().startswith("<!doctype html>")
    assert ("F8L202" in summary.read_text()) == bool(code)
