"""doctor: what it says, what it hides, and when it fails."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture
def probe(monkeypatch):
    """`probe(stdout, code, stderr)` stands in for the process that asks torch."""
    from fp8load_cli import diagnosis

    def answer(found: dict | None, code: int = 0, err: str = "") -> None:
        out = "" if found is None else json.dumps(found) + "\n"
        monkeypatch.setattr(
            diagnosis.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, code, out, err)
        )

    return answer


FOUND = {"torch": "2.13.0", "cuda": None, "devices": [], "broken": [],
         "backends": [{"name": "reference", "runs": ["per tensor"], "reason": "", "device": "cpu"},
                      {"name": "fast", "runs": [], "reason": "needs a GPU", "device": "cpu"}]}  # fmt: skip


def test_a_machine_without_a_gpu_is_fine(run, probe):
    probe(FOUND)
    result = run("doctor")

    assert result.code == 0
    assert "needs a GPU" in result.out


def test_a_broken_backend_is_exit_1(run, probe):
    probe(FOUND | {"broken": [{"name": "bad", "error": "ImportError: libfoo.so"}]})
    result = run("doctor", "--json")

    assert result.code == 1
    assert {"name": "bad", "state": "broken", "text": "ImportError: libfoo.so"} in json.loads(result.out)["checks"]


def test_a_torch_that_crashes_is_reported_not_shared(run, probe):
    probe(None, -11, "")
    result = run("doctor")

    assert result.code == 1
    assert "ended with status -11" in result.out


def test_the_token_is_never_shown(run, probe, monkeypatch):
    probe(FOUND)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for form in ((), ("--json",), ("--md",)):
        result = run("doctor", *form)
        assert "hf_secret" not in result.out + result.err
        assert "from HF_TOKEN" in result.out.replace("\\", "")


def test_the_real_probe_answers(run):
    report = json.loads(run("doctor", "--json").out)
    states = {check["name"]: check["state"] for check in report["checks"]}

    assert report["schema"] == "fp8load.doctor/1"
    assert states["torch"] == "ok"
    assert states["reference"] == "ok"


def test_backends_of_experts_are_asked_too(run):
    checks = {check["name"]: check for check in json.loads(run("doctor", "--json").out)["checks"]}

    assert checks["triton_grouped"]["state"] in ("ok", "no")
    assert "CUDA" in checks["triton_grouped"]["text"] or checks["triton_grouped"]["state"] == "ok"


def test_a_machine_without_torch_is_no_broken_one(run, probe, monkeypatch):
    from fp8load_cli import diagnosis

    monkeypatch.setattr(diagnosis, "_version", lambda package: None if package == "torch" else "1.0")
    probe({"error": "import torch: ModuleNotFoundError"} | {"torch": None, "devices": [], "backends": []})
    result = run("doctor")

    assert result.code == 0
    assert "not installed: inspect, verify and plan work" in result.out


@pytest.mark.parametrize(("free", "state"), [(19 * 2**30, "warn"), (20 * 2**30, "ok")])
def test_a_cache_without_space_is_a_warning(run, probe, monkeypatch, tmp_path, free, state):
    from huggingface_hub import constants

    from fp8load_cli import diagnosis

    probe(FOUND)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "not" / "made"))
    monkeypatch.setattr(diagnosis.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    checks = {check["name"]: check for check in json.loads(run("doctor", "--json").out)["checks"]}

    assert checks["cache"]["state"] == state
    assert "(not made yet)" in checks["cache"]["text"]


@pytest.mark.parametrize(
    ("home", "shown"), [("/home/ada", "~/cache"), ("/", "/home/ada/cache"), ("/root", "/home/ada/cache")]
)
def test_a_path_does_not_give_the_users_name_away(monkeypatch, home, shown):
    from fp8load_cli import diagnosis

    monkeypatch.setenv("HOME", home)

    assert diagnosis._short(Path("/home/ada/cache")) == shown


def test_markdown_and_json_exclude_each_other(run, probe):
    probe(FOUND)

    assert run("doctor", "--md", "--json").code == 2


def test_markdown_is_a_table(run, probe):
    probe(FOUND)

    assert "| reference | ok |" in run("doctor", "--md").out
