"""doctor: what it says, what it hides, and when it fails."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from under_test import pythonpath


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


class Bad:
    """A backend that takes blocks alone, and computes them as `apply` says."""

    name = "bad"

    def __init__(self, apply) -> None:
        self._apply = apply

    def supports(self, scheme, shape_NK, device):
        from fp8load.runtime.backend import No, Yes
        from fp8load.scheme import PerBlock

        return Yes() if isinstance(scheme.weight.granularity, PerBlock) else No("takes blocks")

    def prepare(self, weights, previous=None):
        from fp8load_kernels.backends.reference import Reference

        return Reference().prepare(weights)

    def apply(self, prepared, x, bias=None):
        from fp8load_kernels.backends.reference import Reference

        return self._apply(Reference().apply(prepared, x))


def raises(y):
    raise RuntimeError("no kernel image\nis available")


@pytest.mark.parametrize(("apply", "said"), [
    (raises, "RuntimeError: no kernel image"), (lambda y: y * 1.5, "away from the float64 product"),
    (lambda y: y * float("nan"), "the product is not finite"),
])  # fmt: skip
def test_a_backend_that_says_yes_is_run(apply, said):
    from fp8load.runtime.backend import Device
    from fp8load_cli.probe import asked

    found = asked(Bad(apply), Device(kind="cpu"), run=True)

    assert found["runs"] == ["128x128 blocks"]
    assert said in found["failed"]["128x128 blocks"]
    assert found["raised"] == (apply is raises)
    assert asked(Bad(lambda y: y), Device(kind="cpu"), run=True)["failed"] == {}
    assert asked(Bad(apply), Device(kind="cpu"), run=False)["failed"] == {}


def test_what_failed_is_broken_and_exit_1(run, probe):
    bad = {"name": "fast", "runs": ["per tensor"], "reason": "", "device": "cpu", "error": 0.5, "raised": False,
           "failed": {"per tensor": "5.0e-01 away from the float64 product"}}  # fmt: skip
    probe(FOUND | {"backends": [bad]})
    result = run("doctor")

    assert result.code == 1
    assert "broken  per tensor: 5.0e-01 away from the float64 product (on cpu)" in result.out


BACKENDS = """
import os, time
from fp8load_kernels.backends.reference import Reference

class Ends(Reference):
    name = "ends"
    def apply(self, prepared, x, bias=None):
        os._exit(7)

class Raises(Reference):
    name = "raises"
    def apply(self, prepared, x, bias=None):
        raise OSError("libfoo.so")

class After(Reference):
    name = "after"

def provider(device):
    print("a backend that talks while it is asked")
    return Ends(), Raises(), After()
"""


def test_a_backend_that_ends_the_process_is_broken_and_the_others_are_asked(run, tmp_path, monkeypatch):
    info = tmp_path / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fp8load.backends]\nstranger = strange_backends:provider\n")
    (tmp_path / "strange_backends.py").write_text(BACKENDS)
    monkeypatch.setenv("PYTHONPATH", pythonpath(tmp_path))
    result = run("doctor", "--device", "cpu", "--json")
    checks = {check["name"]: check for check in json.loads(result.out)["checks"]}

    assert result.code == 1
    assert checks["ends"] == {
        "name": "ends", "state": "broken", "text": "the process that ran it ended with status 7",
    }  # fmt: skip
    assert "per tensor: OSError: libfoo.so" in checks["raises"]["text"]
    assert (checks["after"]["state"], checks["reference"]["state"]) == ("ok", "ok")
    assert "run, largest error" in checks["after"]["text"]


def test_a_backend_that_never_answers_is_broken(run, monkeypatch):
    from fp8load_cli import diagnosis

    def slow(command, **options):
        if "--skip" in command:
            return subprocess.CompletedProcess(command, 0, json.dumps(FOUND) + "\n", "")
        said = '{"torch": "2.13.0", "cuda": null, "devices": []}\n{"trying": "hangs"}\n'
        raise subprocess.TimeoutExpired(command, options["timeout"], output=said.encode())

    monkeypatch.setattr(diagnosis.subprocess, "run", slow)
    result = run("doctor")

    assert result.code == 1
    assert "hangs" in result.out
    assert "did not answer within 300 s" in result.out
    assert "needs a GPU" in result.out


def test_after_a_backend_that_raised_on_a_gpu_the_others_are_asked_anew(run, monkeypatch):
    from fp8load_cli import diagnosis

    first = {"name": "raises", "runs": ["per tensor"], "reason": "", "device": "H200", "error": None, "raised": True,
             "failed": {"per tensor": "AcceleratorError: illegal memory access"}}  # fmt: skip
    commands = []

    def answers(command, **_):
        commands.append(command[command.index("auto") + 1 :])
        lines = [FOUND] if len(commands) > 1 else [FOUND | {"backends": [first]}, {"stopped": True}]
        return subprocess.CompletedProcess(command, 0, "".join(json.dumps(line) + "\n" for line in lines), "")

    monkeypatch.setattr(diagnosis.subprocess, "run", answers)
    names = [check["name"] for check in json.loads(run("doctor", "--json").out)["checks"]]

    assert commands == [[], ["--skip", "raises"]]
    assert names[:4] == ["torch", "raises", "reference", "fast"]


def test_another_device_is_asked_about_and_nothing_is_run(run):
    checks = {check["name"]: check for check in json.loads(run("doctor", "--device", "sm80", "--json").out)["checks"]}

    assert checks["emulated"]["text"] == "not run here: every common scheme on sm80, 8.0"
    assert checks["triton_block"] == {
        "name": "triton_block", "state": "no", "text": "needs compute capability 8.9, and this is sm80, 8.0",
    }  # fmt: skip


def test_the_reason_is_what_another_device_would_change(run):
    report = json.loads(run("doctor", "--device", "cpu", "--json").out)
    checks = {check["name"]: check["text"] for check in report["checks"]}

    assert checks["torch_block"] == "runs on compute capability 9.0, and this is cpu"
    assert checks["torch_scaled_mm"].startswith("run, largest error ")


@pytest.mark.parametrize("device", ["sm91", "gfx942"])
def test_there_is_no_such_device(run, device):
    result = run("doctor", "--device", device)

    assert (result.code, result.out) == (2, "")
    assert "expected  auto, cpu, sm75" in result.err
