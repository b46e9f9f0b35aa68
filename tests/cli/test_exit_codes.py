"""One test for each row of the exit code table."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from .conftest import BROKEN, CLEAN, ROOT, shell


def test_0_nothing_at_or_above_fail_on(run):
    assert run("verify", CLEAN).code == 0


def test_1_findings(run):
    assert run("verify", BROKEN).code == 1


@pytest.mark.parametrize("command", ["verify", "inspect", "plan"])
def test_raw_casts_are_no_fault_where_they_are_said_to_be_some(run, tmp_path, command):
    skeleton = tmp_path / "raw.skel"
    skeleton.write_text("blocks.{0..1}.up.weight  F8_E5M2  [64, 32]\n")

    assert run(command, skeleton, "--allow-unscaled").code == 0
    refused = run(command, skeleton)
    assert refused.code == {"verify": 0, "inspect": 0, "plan": 3}[command]
    assert command == "inspect" or "allow_unscaled=True" in refused.out + refused.err


def test_1_a_warning_counts_under_fail_on_warning(run, skeleton):
    source = "fixtures/checkpoints/ar-llama128-fp8static-llmc"
    findings = json.loads(run("verify", source, "--json").out)["findings"]
    loud = {finding["severity"] for finding in findings} - {"info"}

    assert loud == {"warning"} or loud == {"error"}
    assert run("verify", source, "--fail-on", "warning").code == 1


def test_1_the_plan_is_impossible_and_the_sizes_that_work_are_named(run):
    result = run("plan", CLEAN, "--tp", "3")

    assert result.code == 1
    assert "1, 2, 4, 8" in result.err
    assert run("plan", CLEAN, "--ep", "2", "--rank", "1").code == 1


def test_1_a_broken_file_is_a_finding_of_verify(run, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")

    assert run("verify", tmp_path).code == 1


def test_3_the_same_file_cannot_be_inspected(run, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")

    assert run("inspect", tmp_path).code == 3


def test_exit_zero_turns_1_into_0_only(run):
    assert run("verify", BROKEN, "--exit-zero").code == 0
    assert run("verify", BROKEN, "--exit-zero", "--select", "F9").code == 2
    assert run("verify", "no/such/path", "--exit-zero").code == 3


@pytest.mark.parametrize(
    "words",
    [
        ("--no-such-option",),
        ("no-such-command",),
        ("inspect",),
        ("inspect", CLEAN, "--sort", "colour"),
        ("inspect", CLEAN, "--sort", "bytes", "--json"),
        ("inspect", CLEAN, "--tree", "--depth", "1", "--json"),
        ("inspect", CLEAN, "--depth", "1"),
        ("inspect", CLEAN, "--skeleton", "--tree"),
        ("inspect", "pyproject.toml"),
        ("inspect", CLEAN, "--module", "{"),
        ("inspect", CLEAN, "-f", "sarif"),
        ("inspect", CLEAN, "--json", "-f", "md"),
        ("inspect", CLEAN, "--color", "blue"),
        ("inspect", CLEAN, "-o", "no/such/folder/x.txt"),
        ("verify", CLEAN, "--tp", "two"),
        ("verify", CLEAN, "--tp", "0"),
        ("verify", CLEAN, "--level", "everything"),
        ("verify", CLEAN, "--fail-on", "info"),
        ("verify", CLEAN, "--baseline", "no-such-file.json"),
        ("verify", CLEAN, "--config", "no-such-file.toml"),
        ("verify", CLEAN, "--statistics", "-f", "sarif"),
        ("plan", CLEAN, "--rank", "1"),
        ("plan", CLEAN, "--ep-rank", "1"),
        ("plan", CLEAN, "--tp", "2", "--rank", "all", "--ep-rank", "0"),
        ("plan", CLEAN, "--rank", "all-of-them"),
        ("plan", CLEAN, "--explain", "no.such.tensor"),
        ("plan", CLEAN, "--explain", "lm_head.weight", "--module", "lm_head"),
        ("rule",),
        ("rule", "F8L999"),
        ("schema", "diff"),
    ],
)
def test_2_usage(run, words):
    result = run(*words)

    assert result.code == 2
    assert result.err.startswith("error[USE")
    assert "\n  hint  " in result.err
    assert "Traceback" not in result.err


def test_2_an_unknown_code_says_what_was_meant(run):
    result = run("verify", CLEAN, "--select", "F8K2")

    assert result.code == 2
    assert "Did you mean F8L2 (" in result.err


@pytest.mark.parametrize("command", ["inspect", "verify", "plan"])
@pytest.mark.parametrize("source", ["./no-such-folder", "no-such-org/no-such-repo"])
def test_3_not_found_or_offline(run, command, source):
    result = run(command, source)

    assert result.code == 3
    assert result.err.startswith("error[SRC")


@pytest.mark.parametrize(
    "form", ["text", "concise", "json", "jsonl", "github", "gitlab", "sarif", "junit", "md", "html"]
)
def test_3_a_rule_that_crashed_is_an_error_of_its_own_in_every_format(run, monkeypatch, form):
    from fp8load import verify

    def crash(context):
        raise RuntimeError("boom")

    first, *rest = verify.rules()
    monkeypatch.setattr(verify, "rules", lambda: (replace(first, check=crash), *rest))
    result = run("verify", CLEAN, "-f", form, "--exit-zero")

    assert result.code == 3
    assert first.code in result.out
    assert "crashed" in result.out


def test_3_a_rule_crashed_and_findings_are_still_printed(run, monkeypatch):
    from fp8load import verify

    def crash(context):
        raise RuntimeError("boom")

    first, *rest = verify.rules()
    monkeypatch.setattr(verify, "rules", lambda: (replace(first, check=crash), *rest))
    result = run("verify", BROKEN, "--json")

    report = json.loads(result.out)
    assert result.code == 3
    assert report["summary"]["crashed"] == [first.code]
    assert report["findings"]
    assert run("verify", BROKEN, "--exit-zero").code == 3


def test_3_an_unknown_exception_is_one_message(run, monkeypatch):
    from fp8load.checkpoint import Checkpoint

    def crash(self):
        raise RuntimeError("boom")

    monkeypatch.setattr(Checkpoint, "summary", crash)
    result = run("inspect", CLEAN)

    assert result.code == 3
    assert "RuntimeError: boom" in result.err
    assert "Traceback" not in result.err
    monkeypatch.setenv("FP8LOAD_DEBUG", "1")
    assert "Traceback" in run("inspect", CLEAN).err
    assert run("inspect", CLEAN, "-qq").err == ""


def test_130_interrupted(run, monkeypatch):
    from fp8load.checkpoint import Checkpoint

    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "summary", interrupt)
    result = run("inspect", CLEAN)

    assert (result.code, result.out, result.err) == (130, "", "interrupted; nothing was written\n")


def heeds_interrupts() -> None:
    """What a shell starts in the background ignores SIGINT, and hands that on: so these tests, and what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_until_it_reads(process: subprocess.Popen[bytes]) -> None:
    """Until the program waits for its standard input: a signal while it still imports is another matter."""
    calls, end = Path(f"/proc/{process.pid}/syscall"), time.monotonic() + 30
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        time.sleep(5)
        return
    while not calls.read_text().startswith("0 0x0 "):  # read(0, ...)
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_130_a_real_signal():
    command = [sys.executable, "-m", "fp8load", "inspect", "-"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        preexec_fn=heeds_interrupts,  # noqa: PLW1509 - no threads here
    )
    wait_until_it_reads(process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)

    assert process.returncode == 130
    assert err == b"interrupted; nothing was written\n"


@pytest.mark.parametrize("words", [("inspect", CLEAN, "--tensors"), ("verify", BROKEN), ("-h",), ("schema",)])
def test_a_reader_that_has_gone_is_no_error(words):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "fp8load", *words]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, cwd=ROOT, timeout=60, check=False)
    os.close(write)

    assert (done.returncode, done.stderr) == (0, b"")


def test_the_console_script_and_the_module_are_the_same():
    script = subprocess.run([Path(sys.executable).with_name("fp8load"), "--version"], capture_output=True, check=True)

    assert script.stdout == shell("--version").stdout
    assert script.stdout.startswith(b"fp8load ")


def test_what_is_advised_for_a_method_that_nobody_knows_works(run, tmp_path):
    skeleton = tmp_path / "x.skel"
    skeleton.write_text('config {"quantization_config": {"quant_method": "fp9"}}\nm.a.weight  F8_E4M3  [8, 8]\n')

    (finding,) = json.loads(run("verify", skeleton, "--json").out)["findings"]
    (option,) = re.findall(r"`fp8load inspect (--\w+)`", finding["hint"])

    assert run("inspect", skeleton, option).code == 0
