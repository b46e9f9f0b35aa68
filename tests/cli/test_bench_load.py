"""`bench load`: what is answered in each form, what is refused, progress, and how an interruption ends it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import save_file

from fp8load.report import SourceReport
from fp8load_cli import bar
from fp8load_cli.bar import Bar, progress_line
from fp8load_cli.commands.schema import schema_of
from fp8load_cli.render.md import draw as markdown
from fp8load_cli.render.text import Style, draw
from fp8load_cli.render.views.load import load_document
from fp8load_cli.reports import BenchLoadReport, LoadLimit, LoadRefusal, LoadRow
from under_test import pythonpath

from .conftest import CLEAN, ROOT, bare
from .test_exit_codes import heeds_interrupts
from .test_help import blocked, python

CHECKPOINT = "fixtures/checkpoints/ct-llama128-fp8-static"
TINY = ("bench", "load", CHECKPOINT, "--device", "cpu", "--runs", "2")


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    """Small copies: their speed is not what is tested."""
    from fp8load.runtime.bench import limits

    monkeypatch.setitem(limits.LINK_NBYTES, "cpu", 1 << 20)


def row(loader: str, seconds: float, *, until: str = "bytes in place", **changes) -> LoadRow:
    made = LoadRow(
        loader=loader, until=until, peer=loader.startswith("peer"), gb_s=10 / seconds, seconds=seconds, runs=[seconds],
        share=10 / seconds / 55.5, extra_host_nbytes=300 << 20, extra_device_nbytes=128 << 20,
    )  # fmt: skip
    return made.model_copy(update=changes)


def limit(what: str, threads: int, gb_s: float, *, link: bool = False) -> LoadLimit:
    return LoadLimit(what=what, threads=threads, link=link, gb_s=gb_s)


H200 = BenchLoadReport(
    source=SourceReport(kind="local", id="./llama-70b", files=5, nbytes=20_000_000_000),
    device="NVIDIA H200", capability="9.0", tp_size=2, tp_rank=1,
    versions={"torch": "2.11.0", "fastsafetensors": None}, nbytes=10_000_000_000,
    timing="median of 3 runs each, in turn", limit_gb_s=55.5,
    limits=[
        limit("pinned host memory to the GPU", 1, 55.5, link=True), limit("page cache to pinned memory", 1, 6.9),
        limit("page cache to pinned memory", 16, 55.7),
    ],
    rows=[
        row("fp8load", 0.19), row("fp8load", 0.21, until="sealed, prepared model"),
        row("peer safe_open", 1.08, extra_host_nbytes=5 << 30),
    ],
    not_measured=[
        LoadRefusal(loader="peer a", reason="OSError: libfoo.so", failed=True),
        LoadRefusal(loader="peer b", reason="not installed: pip install b", failed=False),
    ],
    remarks=["the disk is measured too"],
)  # fmt: skip


def test_the_table_of_a_known_report():
    assert (
        draw(load_document(H200), Style())
        == """\
NVIDIA H200, 9.0  torch 2.11.0

Read      ./llama-70b, rank 1 of tp 2: 10.00 GB of 20.00 GB in 5 files
Limit     55.5 GB/s, the smaller of pinned host memory to the GPU 55.5; page cache to pinned memory 6.90 (1 thread), \
55.7 (16 threads)
Time      median of 3 runs each, in turn; files in the page cache
Memory    peaks beyond what is held at the end and beyond the parameters; pages of mapped files count
Note      the disk is measured too

loader          until                   GB/s  seconds  of limit  extra host  extra GPU
fp8load         bytes in place          52.6     0.19      0.95   300.0 MiB  128.0 MiB
fp8load         sealed, prepared model  47.6     0.21      0.86   300.0 MiB  128.0 MiB
peer safe_open  bytes in place          9.26     1.08      0.17     5.0 GiB  128.0 MiB

Failed
  peer a  OSError: libfoo.so

Not measured
  peer b  not installed: pip install b
"""
    )
    assert "| peer safe\\_open | bytes in place | 9.26 |" in markdown(load_document(H200))


def test_on_a_cpu_whose_system_does_not_tell_the_peak_the_columns_are_left_out():
    rows = [one.model_copy(update={"extra_host_nbytes": None, "extra_device_nbytes": None}) for one in H200.rows]
    text = draw(load_document(H200.model_copy(update={"rows": rows, "capability": None})), Style())

    assert "extra host" not in text
    assert "extra GPU" not in text
    assert "that of the host is left out: this system does not tell its peak" in text


def test_without_files_here_there_is_no_limit():
    rows = [one.model_copy(update={"share": None}) for one in H200.rows[:2]]
    changes = {"rows": rows, "limits": H200.limits[:1], "limit_gb_s": None}
    text = draw(load_document(H200.model_copy(update=changes)), Style())

    assert "Limit     not known; pinned host memory to the GPU 55.5, GB/s\n" in text
    assert "files from elsewhere" in text
    assert "of limit" not in text


def test_on_a_narrow_terminal_memory_goes_before_rates():
    text = draw(load_document(H200), Style(width=60))

    assert "extra" not in text.partition("loader")[2]
    assert "GB/s" in text
    assert max(map(len, text.splitlines())) <= 60


def test_a_run_has_both_of_ours_the_peers_that_are_there_and_a_warning_that_it_is_too_small(run):
    result = run(*TINY)

    assert (result.code, result.err) == (0, "")
    for words in ("fp8load ", "sealed, prepared model", "peer safe_open", "peer safetensors load_file"):
        assert words in result.out
    assert "Note      0.4 MB are too few" in result.out


def test_the_report_is_of_its_schema(run):
    found = json.loads(run(*TINY, "--tp", "2", "--rank", "1", "--json").out)

    assert found["schema"] == "fp8load.bench-load/1"
    assert found.keys() == schema_of("bench-load")["properties"].keys()
    assert (found["tp_size"], found["tp_rank"]) == (2, 1)
    assert 0 < found["nbytes"] < found["source"]["nbytes"]
    assert all(len(one["runs"]) == 2 and one["seconds"] > 0 for one in found["rows"])
    assert {one["link"] for one in found["limits"]} == {True, False}


def test_without_peers_only_ours_is_measured(run):
    found = json.loads(run(*TINY, "--no-peers", "--json").out)

    assert [one["loader"] for one in found["rows"]] == ["fp8load", "fp8load"]
    assert found["not_measured"] == []


def test_weights_that_are_quantized_on_the_way_are_a_remark_and_no_peer_does_that(run, tmp_path):
    import fp8load

    tensors = {}
    with fp8load.open(ROOT / CHECKPOINT) as checkpoint:
        tensors = {name: tensor.contiguous() for name, tensor in checkpoint.plain_tensors(torch.bfloat16)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((ROOT / CHECKPOINT / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))

    words = ("bench", "load", str(tmp_path), "--device", "cpu", "--runs", "1", "--json")
    report = json.loads(run(*words, "--quantize", "fp8-channel").out)

    assert {row["loader"] for row in report["rows"]} == {"fp8load"}
    assert {one["reason"] for one in report["not_measured"]} == {"does not quantize to fp8-channel while loading"}
    assert any("quantized to fp8-channel on the way" in remark for remark in report["remarks"])
    assert report["nbytes"] == sum(tensor.nbytes for tensor in tensors.values())


def test_a_peer_that_is_wrong_is_shown_and_no_fault_of_ours(run, monkeypatch):
    from fp8load.runtime.bench.peers.safe_open import SafeOpen

    monkeypatch.setattr(SafeOpen, "load", lambda *_: None)
    result = run(*TINY)

    assert result.code == 0
    assert "\nFailed\n  peer safe_open  model." in result.out
    assert "has other bytes than the files" in result.out


@pytest.mark.parametrize(("words", "code", "said"), [
    ((CLEAN,), 3, "error[SRC010] a skeleton has no tensor data to load"),
    (("./no-such-folder",), 3, "error[SRC001]"),
    ((CHECKPOINT, "--device", "tpu"), 2, "torch knows no such device"),
    ((CHECKPOINT, "--device", "meta"), 2, "holds no data"),
    ((CHECKPOINT, "--device", "cuda:99"), 1, "error[BKD802] the device is not there"),
    ((CHECKPOINT, "--tp", "2", "--rank", "2"), 2, "expected  0..1"),
    ((CHECKPOINT, "--tp", "7"), 1, "error[F8L504]"),
    ((CHECKPOINT, "--runs", "0"), 2, "--runs"),
    ((), 2, "Missing argument"),
])  # fmt: skip
def test_what_cannot_be_measured(run, words, code, said):
    result = run("bench", "load", *words)

    assert (result.code, result.out) == (code, "")
    assert said in result.err


def test_1_measuring_needs_torch():
    done = python(blocked("torch"), *TINY)

    assert done.returncode == 1
    assert b"error[BKD803] measuring needs torch" in done.stderr


@pytest.mark.parametrize(("width", "line"), [
    (100, "peer x, run 1 of 3  [#####...............]  2.50 of 10.00 GB  5.0 GB/s  2 s left"),
    (60, "peer x, run 1 of 3  2.50 of 10.00 GB  5.0 GB/s  2 s left"),
    (50, "peer x, run 1 of 3  2.50 of 10.00 GB  5.0 GB/s"),
    (40, "peer x, run 1 of 3  2.50 of 10.00 GB"),
    (20, "peer x, run 1 of 3"),
    (6, "peer x"),
    (0, ""),
])  # fmt: skip
def test_a_line_of_progress_says_as_much_as_fits(width, line):
    assert progress_line("peer x, run 1 of 3", 2_500_000_000, 10_000_000_000, 0.5, width) == line


def test_progress_of_nothing_has_no_rate():
    assert progress_line("limits", 0, 0, 0.0, 80) == "limits  [....................]  0.00 of 0.00 GB"


def test_progress_is_drawn_now_and_then_starts_again_and_leaves_an_empty_line(monkeypatch):
    clock = iter([10.0, 10.01, 10.5, 11.0])
    monkeypatch.setattr(bar.time, "monotonic", lambda: next(clock))
    monkeypatch.setenv("COLUMNS", "100")
    stream = io.StringIO()
    drawn = Bar(stream)
    drawn.say("x", 0, 4_000_000_000)
    drawn.say("x", 1_000_000_000, 4_000_000_000)  # too soon
    drawn.say("x", 2_000_000_000, 4_000_000_000)
    drawn.say("x", 0, 4_000_000_000)  # the next run of the same
    drawn.wipe()
    lines = stream.getvalue().split("\r")

    assert [line.rstrip() for line in lines if line.strip()] == [
        "x  [....................]  0.00 of 4.00 GB",
        "x  [##########..........]  2.00 of 4.00 GB  4.0 GB/s  0 s left",
        "x  [....................]  0.00 of 4.00 GB",
    ]
    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().endswith("\r")


def test_nothing_is_drawn_without_a_terminal():
    drawn = Bar(None)
    drawn.say("x", 1, 2)
    drawn.wipe()


HANGS = """
from fp8load.runtime.bench.peers import load_file
def load(self, paths, device, places):
    print("hangs", flush=True)
    time.sleep(60)
import time
load_file.LoadFile.load = load
"""
"""What a peer does that is busy in its own code: `time.sleep` in another thread heeds no interruption either."""


def interrupted(*words: str, before: str = "", ready: bytes) -> tuple[int, bytes, float]:
    """Start the program, wait until it said `ready`, interrupt it: exit code, stderr, and seconds until it ended."""
    code = f"{before}\nfrom fp8load_cli.app import main\nimport sys\nsys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
        env=bare(PYTHONPATH=pythonpath()), preexec_fn=heeds_interrupts,  # noqa: PLW1509 - no threads here
    )  # fmt: skip
    assert process.stdout is not None
    while ready not in process.stdout.readline():
        assert process.poll() is None
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    return process.returncode, err, time.monotonic() - start


LOADS = """
from fp8load.runtime.bench import measure
ours = measure.LoadBench._run_ours
def run(self, nth):
    print("loads", flush=True)
    ours(self, nth)
measure.LoadBench._run_ours = run
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("before", "ready"), [(LOADS, b"loads"), (HANGS, b"hangs")], ids=["ours", "a peer"])
def test_130_an_interruption_waits_for_no_one(before, ready):
    code, err, seconds = interrupted(*TINY, "--runs", "100000", before=before, ready=ready)

    assert code == 130
    assert err == b"interrupted; nothing was written\n"
    assert seconds < 10  # half of one; a busy machine takes longer, and waiting for the peer would take 60
