"""Terminals, encodings, hostile names."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys

import pytest

from fp8load.source.base import ReadMeter
from fp8load_cli import opening

from .conftest import BROKEN, CLEAN, EVIL, ROOT, bare, shell

pty = pytest.importorskip("pty")
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def in_terminal(columns: int, *words: str, **environment: str) -> str:
    """What a terminal of so many columns shows."""
    import fcntl
    import struct
    import termios

    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    command = [sys.executable, "-m", "fp8load", *map(str, words)]
    process = subprocess.Popen(
        command, stdout=child, stderr=child, stdin=child, env=bare(**{"TERM": "xterm-256color"} | environment), cwd=ROOT
    )
    os.close(child)
    chunks = []
    while True:
        try:
            chunk = os.read(parent, 65536)
        except OSError:  # EIO: the other side has closed
            break
        if not chunk:
            break
        chunks.append(chunk)
    process.wait(timeout=30)
    os.close(parent)
    return b"".join(chunks).decode().replace("\r\n", "\n")


WORDS = {
    "inspect": ("inspect", CLEAN),
    "tensors": ("inspect", CLEAN, "--tensors"),
    "verify": ("verify", BROKEN),
    "plan": ("plan", CLEAN, "--module", "**"),
    "kernels": ("plan", CLEAN, "--device", "sm80"),
    "bench": ("bench", "gemm", "--shapes", "64x128", "--tokens", "2", "--device", "cpu", "--backend", "emulated"),
    "load": ("bench", "load", "fixtures/checkpoints/ct-llama128-fp8-static", "--device", "cpu", "--runs", "1"),
    "rules": ("rule", "--all"),
    "error": ("inspect", "./no-such-folder"),
}


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("columns", [40, 80, 120])
def test_nothing_is_wider_than_the_terminal(name, columns):
    shown = ANSI.sub("", in_terminal(columns, *WORDS[name]))

    assert shown.strip()
    assert max(map(len, shown.splitlines())) <= columns, shown


def test_a_terminal_gets_colour_unless_it_is_not_wanted():
    assert "\x1b[" in in_terminal(80, "verify", BROKEN)
    assert "\x1b[" not in in_terminal(80, "verify", BROKEN, TERM="dumb")
    assert "\x1b[" not in in_terminal(80, "verify", BROKEN, NO_COLOR="1")
    assert "\x1b[" not in in_terminal(80, "verify", BROKEN, "--color", "never")


class _Steps:
    """Stands for the event that ends the drawing: set once all steps are made, each of which reads so many bytes."""

    def __init__(self, meter, steps):
        self._meter, self._steps = meter, iter(steps)

    def wait(self, _seconds):
        nbytes = next(self._steps, None)
        if nbytes is not None:
            self._meter.nbytes = nbytes
        return nbytes is None


def test_progress_is_drawn_and_wiped_without_an_escape_sequence():
    stream, meter = io.StringIO(), ReadMeter()
    opening._draw(stream, meter, _Steps(meter, [8, 123_456_789, 8]))
    before, short, long, padded, wiped, after = stream.getvalue().split("\r")

    assert "\x1b" not in stream.getvalue()
    assert [text.split()[0] for text in (short, long, padded)] == ["reading"] * 3
    assert len(short) < len(long) == len(padded), "what is left of a longer line is covered"
    assert padded.rstrip() == short
    assert (before, wiped.strip(), len(wiped), after) == ("", "", len(short), "")


def test_nothing_is_drawn_of_what_is_read_at_once():
    stream, meter = io.StringIO(), ReadMeter()
    opening._draw(stream, meter, _Steps(meter, []))

    assert stream.getvalue() == ""


def test_a_pipe_gets_colour_only_when_it_is_forced(run, monkeypatch):
    assert "\x1b[" in run("verify", BROKEN, "--color", "always").out
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in run("verify", BROKEN).out
    monkeypatch.setenv("FORCE_COLOR", "0")
    assert "\x1b[" not in run("verify", BROKEN).out
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in run("verify", BROKEN).out


def test_hints_are_for_terminals(run):
    assert run("inspect", CLEAN).err == ""
    assert "hint:" in in_terminal(80, "inspect", CLEAN)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
@pytest.mark.parametrize(
    "words", [("verify",), ("verify", "-f", "concise"), ("inspect", "--tree"), ("inspect", "--json")]
)
def test_names_that_stdout_cannot_encode_do_not_crash(skeleton, encoding, words):
    text = 'config {"model_type": "llama"}\nmodel.μ層.weight  BF16  [4, 4]\n'
    done = shell(words[0], skeleton(text), *words[1:], PYTHONIOENCODING=encoding)

    assert done.returncode in (0, 1), done.stderr
    assert b"Traceback" not in done.stderr


def test_no_home_is_no_problem():
    assert shell("inspect", CLEAN).returncode == 0
    assert shell("doctor", "--json").returncode == 0


FORMATS = [("verify", f) for f in ("text", "concise", "json", "jsonl", "github", "gitlab", "sarif", "junit", "md")]
FORMATS += [("inspect", f) for f in ("text", "json", "md")] + [("plan", f) for f in ("text", "json")]


@pytest.mark.parametrize(("command", "chosen"), FORMATS)
@pytest.mark.parametrize("extra", [(), ("--color", "always")])
def test_an_evil_name_is_inert(run, skeleton, command, chosen, extra):
    options = {"inspect": ("--tensors",), "plan": ("--module", "**"), "verify": ("-v",)}[command]
    result = run(command, skeleton(EVIL), "-f", chosen, *options, *extra)
    shown = result.out + result.err

    assert "evil" in shown
    assert "\x1b[31m[bold]evil" not in shown
    assert "\x1b" not in ANSI.sub("", shown)
    assert not re.search(r"\x1b\[31m", shown)
    assert "\u202e" not in shown
    if chosen == "md":
        assert "<b>" not in shown


def test_an_evil_name_survives_skeletons_and_explain(run, skeleton):
    name = "model.\x1b[31m[bold]evil\u202e|<b>.weight"
    for words in (("inspect", "--skeleton"), ("plan", "--explain", name), ("inspect", "--tree")):
        result = run(words[0], skeleton(EVIL), *words[1:])
        assert "evil" in result.out + result.err
        assert "\x1b" not in result.out + result.err


def test_a_skeleton_may_come_from_stdin():
    command = [sys.executable, "-m", "fp8load", "inspect", "-"]
    done = subprocess.run(command, input=(ROOT / CLEAN).read_bytes(), capture_output=True, check=False)

    assert done.returncode == 0
    assert b"28 quantized modules" in done.stdout
