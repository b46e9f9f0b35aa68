"""`bench gemm`: what may be asked, what is answered in each form, and the picture."""

from __future__ import annotations

import json
from itertools import combinations

import pytest

from fp8load_cli.commands.bench import gemm
from fp8load_cli.commands.schema import schema_of
from fp8load_cli.help import without_from
from fp8load_cli.render.md import draw as markdown
from fp8load_cli.render.text import Style, draw
from fp8load_cli.render.views.gemm import gemm_document, number
from fp8load_cli.reports import BenchGemmReport, GemmFailure, GemmRefusal, GemmRow

from .test_help import blocked, python

TINY = ("bench", "gemm", "--shapes", "32x64", "--scheme", "tensor", "--tokens", "2", "--device", "cpu")
CHECKPOINT = "fixtures/checkpoints/mo-qwen3moe-auto"


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    """Short measurements: their values are not what is tested."""
    from fp8load_kernels.bench import clock, limits

    monkeypatch.setattr(clock, "CPU_SECONDS", 1e-4)
    monkeypatch.setitem(limits.COPY_NBYTES, "cpu", 1 << 16)


def row(backend: str, us: float, *, tokens: int = 16, kind: str = "block", error: float = 0.0017) -> GemmRow:
    num_rows, num_cols = 6144, 4096
    peer = backend.startswith("peer") or backend == "bf16"
    nbytes = (2 if backend == "bf16" else 1) * num_rows * num_cols + 2 * tokens * (num_rows + num_cols)
    return GemmRow(
        module="l8b.qkv", kind=kind, scheme="f8_e4m3 block 128 x 128", count=1, shape=(num_rows, num_cols),
        tokens=tokens, backend=backend, peer=peer, us=us, tflops=2 * tokens * num_rows * num_cols / us / 1e6,
        gb_s=nbytes / us / 1e3, nbytes=nbytes, limit_us=6, share=6 / us, vs_bf16=23 / us, error=error,
        wrong=error > 0.01,
    )  # fmt: skip


def report(*rows: GemmRow, peak: float | None = 1979, **changes) -> BenchGemmReport:
    made = BenchGemmReport(
        device="NVIDIA H200", capability="9.0", versions={"torch": "2.11.0", "cuda": "13.0", "triton": None},
        timing="median of a clock", limit="max(bytes / 4252 GB/s measured, ...)", bandwidth_gb_s=4252,
        peak_fp8_tflops=peak, peak_bf16_tflops=peak and peak / 2, peers_quantize="vLLM's", seed=7, sources=[],
        tp_size=1, rows=list(rows), refused=[], failed=[],
    )  # fmt: skip
    return made.model_copy(update=changes)


H200 = report(row("triton_block", 41.5), row("deepgemm", 15.2), row("bf16", 23), row("peer DeepGEMM", 21.5))


def test_a_run_has_a_row_for_each_product_and_says_what_was_not_measured(run):
    result = run(*TINY)
    lines = result.out.splitlines()
    table = lines[next(at for at, line in enumerate(lines) if "module" in line) :]

    assert result.code == 0
    assert table[0].split() == [
        "module", "N", "K", "M", "backend", "us", "GFLOP/s", "GB/s", "of", "limit", "vs", "bf16", "rel.", "error",
    ]  # fmt: skip
    assert [line.split()[4] for line in table[1:5]] == ["torch_scaled_mm", "emulated", "reference", "bf16"]
    assert "the peak of this device is not known, so bandwidth only" in result.out
    assert "\nNot measured  in" in result.out


def test_the_report_is_of_its_schema_and_repeats_under_a_seed(run):
    first = json.loads(run(*TINY, "--seed", "5", "--json").out)
    second = json.loads(run(*TINY, "--seed", "5", "--json").out)
    other = json.loads(run(*TINY, "--json").out)

    assert first["schema"] == "fp8load.bench-gemm/1"
    assert first.keys() == schema_of("bench-gemm")["properties"].keys()
    assert [row["error"] for row in first["rows"]] == [row["error"] for row in second["rows"]]
    assert [row["error"] for row in first["rows"]] != [row["error"] for row in other["rows"]]
    assert all(row["error"] < 0.01 and not row["wrong"] for row in first["rows"])
    assert {row["backend"]: row["vs_bf16"] for row in first["rows"]}["bf16"] == 1


def test_without_peers_there_is_nothing_to_compare_with(run):
    found = json.loads(run(*TINY, "--no-peers", "--json").out)

    assert [row["backend"] for row in found["rows"]] == ["torch_scaled_mm", "emulated", "reference"]
    assert all(row["vs_bf16"] is None for row in found["rows"])


def test_layers_of_a_checkpoint_are_measured_once_with_how_many_there_are(run):
    words = ("bench", "gemm", "--shapes", "from", CHECKPOINT, "--tp", "2", "--tokens", "1,3", "--device", "cpu")
    found = json.loads(run(*words, "--backend", "reference", "--no-peers", "--json").out)
    layers = {(row["module"], tuple(row["shape"])): row["count"] for row in found["rows"]}

    assert (found["sources"], found["tp_size"]) == ([CHECKPOINT], 2)
    assert layers == {
        ("self_attn.qkv_proj", (128, 128)): 2, ("self_attn.o_proj", (128, 64)): 2, ("mlp.gate_up_proj", (256, 128)): 1,
        ("mlp.down_proj", (128, 128)): 1, ("mlp.experts.w13", (96, 128)): 4, ("mlp.experts.w2", (128, 48)): 4,
    }  # fmt: skip
    assert {row["tokens"] for row in found["rows"]} == {1, 3}
    assert {row["kind"] for row in found["rows"]} == {"f8_e4m3 per tensor", "f4 group 1 x 16"}


@pytest.mark.parametrize(("words", "cells"), [
    (("--shapes", "small.wide", "--tokens", "1"), {(512, 1024, 1)}),
    (("--shapes", "small", "--tokens", "1"), {(512, 512, 1), (1024, 512, 1), (512, 1024, 1)}),
    (("--shapes", "16x32,8x24x48", "--tokens", "1,2"), {(16, 32, 1), (16, 32, 2), (24, 48, 8)}),
    (("--shapes", "16x32", "--shapes", "from", "24x48"), {(n, k, m) for n, k in ((16, 32), (24, 48)) for m in (1, 16)}),
    ((), {(n, k, m) for n, k in ((512, 512), (1024, 512), (512, 1024)) for m in (1, 16)}),
])  # fmt: skip
def test_shapes_are_names_groups_and_sizes(run, words, cells):
    common = ("--scheme", "tensor", "--backend", "reference", "--no-peers", "--device", "cpu", "--json")
    found = json.loads(run("bench", "gemm", *words, *common).out)

    assert {(*row["shape"], row["tokens"]) for row in found["rows"]} == cells


@pytest.mark.parametrize(("words", "kept"), [
    (["--shapes", "from", "org/repo"], ["--shapes", "org/repo"]),
    (["--shapes", "from", "--tp", "2"], ["--shapes", "from", "--tp", "2"]),
    (["--shapes", "from"], ["--shapes", "from"]),
    (["from", "--shapes", "l8b"], ["from", "--shapes", "l8b"]),
])  # fmt: skip
def test_from_is_left_out_where_a_source_follows(words, kept):
    assert without_from(words) == kept


@pytest.mark.parametrize(("words", "said"), [
    (("--backend", "cutlass"), "error[BKD800] there is no backend 'cutlass'"),
    (("--scheme", "rows"), "expected  block, channel, tensor, weight-only"),
    (("--tokens", "1,0"), "--tokens does not take this value"),
    (("--tokens", "many"), "--tokens does not take this value"),
    (("--graph",), "--graph does not take this value"),
    (("--device", "tpu"), "torch knows no such device"),
    (("--device", "meta"), "holds no data"),
    (("--plot", "roof.svg"), "expected  FILE.png"),
    (("--plot", "no/such/folder/roof.png"), "a folder that exists"),
    (("--shapes", "fixtures/skeletons/llama-broken.skel", "--tp", "0"), "--tp"),
])  # fmt: skip
def test_2_what_there_is_not(run, words, said):
    result = run(*TINY, *words)

    assert (result.code, result.out) == (2, "")
    assert said in result.err


def test_1_a_backend_that_was_asked_for_refuses(run):
    result = run(*TINY, "--scheme", "block", "--backend", "torch_scaled_mm", "--shapes", "32x64")
    both = run("bench", "gemm", "--shapes", "32x64", "--tokens", "1", "--backend", "torch_scaled_mm", "--device", "cpu")
    only = run("bench", "gemm", "--shapes", "32x64", "--scheme", "block", "--backend", "torch_scaled_mm")

    assert result.code == both.code == 0  # per tensor and per channel it runs
    assert "not per block 128 x 128" in run(*TINY, "--scheme", "block,tensor", "--backend", "torch_scaled_mm", "-v").out
    assert only.code == 1
    assert "error[BKD801] torch_scaled_mm was requested and cannot run here" in only.err


def test_3_a_source_that_is_not_there(run):
    assert run("bench", "gemm", "--shapes", "from", "./no-such-folder").code == 3


def test_1_measuring_needs_torch():
    done = python(blocked("torch"), *TINY)

    assert done.returncode == 1
    assert b"error[BKD803] measuring needs torch" in done.stderr


@pytest.mark.parametrize("broken", ["wrong", "raises"])
def test_1_a_backend_is_wrong_or_broken(run, monkeypatch, broken):
    from fp8load_kernels.backends.reference import Reference

    class Bad(Reference):
        name = "bad"

        def apply(self, prepared, x, bias=None):
            if broken == "raises":
                raise RuntimeError("no kernel image")
            return super().apply(prepared, x, bias) * 1.1

    monkeypatch.setattr("fp8load.runtime.backend.backends_for", lambda device: [Bad(), Reference()])
    result = run(*TINY)

    assert result.code == 1
    assert "wrong or broken: bad" in result.err
    assert ("RuntimeError: no kernel image" if broken == "raises" else " wrong\n") in result.out


def test_a_peer_that_fails_is_shown_and_no_fault_of_ours(run, monkeypatch):
    from fp8load_kernels.bench.peers.bf16 import BF16

    def fails(self, weights, x):
        raise OSError("libfoo.so")

    monkeypatch.setattr(BF16, "prepare", fails)
    result = run(*TINY)

    assert result.code == 0
    assert "bf16     OSError: libfoo.so" in result.out


def test_global_options_may_stand_in_three_places(run):
    words = TINY[2:]
    for line in (("--json", *TINY), ("bench", "--json", "gemm", *words), (*TINY, "--json")):
        assert json.loads(run(*line).out)["schema"] == "fp8load.bench-gemm/1"


def test_a_mistyped_option_is_looked_up_where_it_belongs(run):
    assert "`fp8load bench gemm -h` lists the options" in run("bench", "gemm", "--shape", "l8b").err
    assert "`fp8load bench -h` lists the" in run("bench", "gem").err


def test_the_help_of_the_group_and_of_the_command_are_whole(run):
    for words in (("bench",), ("bench", "gemm")):
        text = run(*words, "-h").out
        examples = text.partition("Examples:\n")[2].strip().splitlines()
        assert len(examples) == 3
        assert all(example.strip().startswith(" ".join(("fp8load", *words))) for example in examples)
    assert gemm.__doc__ is not None


def test_the_table_of_a_known_report():
    failed = GemmFailure(module="l8b.qkv", kind="block", shape=(6144, 4096), tokens=16, backend="torch_block",
                         peer=False, reason="RuntimeError: no image")  # fmt: skip
    refused = [GemmRefusal(backend=name, reason="runs elsewhere", count=6) for name in ("peer a", "deepgemm", "x")]
    made = H200.model_copy(update={"failed": [failed], "refused": refused, "sources": ["org/repo"], "tp_size": 8})

    assert (
        draw(gemm_document(made), Style())
        == """\
NVIDIA H200, 9.0  torch 2.11.0  cuda 13.0

Limit     max(bytes / 4252 GB/s measured, ...)
Time      median of a clock; clocks as they are
Inputs    random, seed 7; bf16 in and out, quantization included
Peers     their inputs are quantized by vLLM's kernels
Layers    org/repo, a rank of tp 8

4 products  block
  module      N     K   M  backend          us  TFLOP/s  GB/s  of limit  vs bf16  rel. error
  l8b.qkv  6144  4096  16  triton_block   41.5     19.4   614      0.14     0.55     1.7e-03
  l8b.qkv  6144  4096  16  deepgemm       15.2     53.0  1677      0.39     1.51     1.7e-03
  l8b.qkv  6144  4096  16  bf16           23.0     35.0  2203      0.26     1.00     1.7e-03
  l8b.qkv  6144  4096  16  peer DeepGEMM  21.5     37.5  1186      0.28     1.07     1.7e-03

Failed
  module   N x K         M  backend      reason
  l8b.qkv  6144 x 4096  16  torch_block  RuntimeError: no image

Not measured  in how many cells, and why
  x, peer a  6  runs elsewhere
"""
    )
    assert "deepgemm" in draw(gemm_document(made, with_refusals=True), Style()).partition("Not measured")[2]


def test_on_a_narrow_terminal_rates_go_before_times():
    text = draw(gemm_document(H200), Style(width=72))

    assert "GB/s  of" not in text
    assert "  us  " in text
    assert max(map(len, text.splitlines()[6:])) <= 72


def test_several_schemes_have_a_column_and_a_wrong_product_a_word():
    two = report(row("a", 1), row("a", 1, kind="channel", error=0.05))
    text = draw(gemm_document(two), Style())

    assert "2 products\n" in text
    assert "  channel  " in text
    assert "5.0e-02 wrong" in text
    assert "| l8b.qkv | block | 6144 |" in markdown(gemm_document(two))


@pytest.mark.parametrize(("value", "text"), [
    (1423.4, "1423"), (152, "152"), (15.12, "15.1"), (0.42, "0.42"), (0.00421, "0.0042"), (99.97, "100"),
])  # fmt: skip
def test_numbers_have_about_three_digits(value, text):
    assert number(value) == text


MANY = report(*(
    row(name, us * tokens**0.5, tokens=tokens)
    for tokens in (1, 16, 64, 512, 4096, 8192)
    for us, name in enumerate(("triton_block", "torch_block", "deepgemm", "bf16", "peer torch", "peer DeepGEMM"), 8)
))  # fmt: skip
REPORTS = {
    "known": MANY,
    "unknown": MANY.model_copy(update={"peak_fp8_tflops": None, "peak_bf16_tflops": None}),
    "many tokens": report(row("triton_block", 276, tokens=8192), row("bf16", 264, tokens=8192)),
    "slow": report(row("reference", 5e5, tokens=1), peak=None, bandwidth_gb_s=6.2),
}


@pytest.mark.parametrize("name", REPORTS)
def test_no_text_of_the_picture_covers_another_or_is_cut(name):
    pytest.importorskip("matplotlib")
    from fp8load_cli.render.roofline import roofline

    figure = roofline(REPORTS[name])
    figure.draw_without_rendering()
    axes, legend = figure.axes[0], figure.legends[0]
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    ticks = [tick.label1 for tick in axes.xaxis.get_major_ticks() if left <= tick.get_loc() <= right]
    ticks += [tick.label1 for tick in axes.yaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    titles = [axes.xaxis.label, axes.yaxis.label, axes.title, legend.get_title()]
    titles += [child for child in axes.get_children() if child in (axes._left_title, axes._right_title)]
    texts = [text for text in (*ticks, *titles, *axes.texts, *legend.get_texts()) if text.get_text()]
    boxes = {f"{text.get_text()} {at}": text.get_window_extent() for at, text in enumerate(texts)}
    whole = figure.bbox

    assert len(ticks) >= 4
    for (one, box), (other, second) in combinations(boxes.items(), 2):
        assert not box.overlaps(second), (one, other)
    for text, box in boxes.items():
        assert whole.x0 <= box.x0, text
        assert box.x1 <= whole.x1, text
        assert box.y1 <= whole.y1, text


def test_every_point_is_inside_and_below_the_peak_there_is_room():
    pytest.importorskip("matplotlib")
    from fp8load_cli.render.roofline import roofline

    for made in REPORTS.values():
        axes = roofline(made).axes[0]
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        points = [point for group in axes.collections for point in group.get_offsets()]
        assert len(points) == len(made.rows)
        assert all(left < x < right and low < y < high for x, y in points)


def test_the_picture_is_written_beside_the_answer(run, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "roof.png"
    result = run(*TINY, "--plot", path, "--json")

    assert result.code == 0
    assert json.loads(result.out)["rows"]
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "the roofline of 4 products" in result.err


def test_without_matplotlib_the_picture_is_an_error_before_anything_is_measured(run, monkeypatch, tmp_path):
    from fp8load_cli import benching
    from fp8load_cli.render import roofline

    monkeypatch.setattr(roofline, "find_spec", lambda name: None)
    monkeypatch.setattr(benching, "measured", lambda *_: pytest.fail("measured"))
    result = run(*TINY, "--plot", tmp_path / "roof.png")

    assert result.code == 2
    assert "error[USE014] --plot needs matplotlib" in result.err
    assert "pip install 'fp8load[plot]'" in result.err


def test_a_layer_that_does_not_fit_into_memory_is_said_and_others_are_measured(run):
    huge = "1x4000000x4000000"
    result = run("bench", "gemm", "--shapes", f"{huge},1x32x32", "--scheme", "tensor", "--no-peers", "--json")
    report = json.loads(result.out)

    assert result.code == 0
    assert {row["module"] for row in report["rows"]} == {"32x32"}
    assert [one["reason"] for one in report["refused"] if one["backend"] == "4000000x4000000"] == [
        "operands and the float64 product do not fit into the memory of this device"
    ]


@pytest.mark.parametrize("text", ["0x32", "64x", "l9b", "from", "1x2x3x4"])
def test_2_shapes_that_there_are_not_are_told_what_there_is(run, text):
    result = run("bench", "gemm", "--shapes", text)

    assert (result.code, result.out) == (2, "")
    assert "NxK, MxNxK, a checkpoint, or built-in layers: l8b, l70b, ds3, small, or one: l8b.qkv" in result.err


def test_1_nothing_was_measured(run, monkeypatch):
    monkeypatch.setattr("fp8load.runtime.backend.backends_for", lambda device: [])
    result = run(*TINY, "--no-peers")

    assert result.code == 1
    assert "nothing was measured" in result.err
