"""`plan --device` and `--backend`: the choice of kernels, its refusals, and what it takes to answer."""

from __future__ import annotations

import json

from .conftest import CLEAN
from .test_help import blocked, python

EXPERTS = "fixtures/checkpoints/mo-qwen3moe-auto"


def test_kernels_are_shown_only_where_they_are_asked_for(run):
    assert "Kernels" not in run("plan", CLEAN).out
    assert json.loads(run("plan", CLEAN, "--json").out)["kernels"] is None
    assert "\nKernels  sm80, Ampere (A100)" in run("plan", CLEAN, "--device", "sm80").out


def test_a_reason_stands_there_once(run):
    out = run("plan", CLEAN, "--device", "cpu").out

    assert out.count("runs on CUDA, not on cpu") == 1
    assert "refused:\n" in out


def test_the_report_has_the_choice(run):
    kernels = json.loads(run("plan", EXPERTS, "--device", "sm90", "--json").out)["kernels"]

    assert kernels["device"] == "sm90"
    assert {"gb": 80, "fits": True} in kernels["memory"]
    assert sum(one["count"] for one in kernels["chosen"]) == 8
    assert [4, 192, 128] in [one["shape"] for one in kernels["chosen"]]
    assert all(one["reason"] for one in kernels["refused"])


def test_every_rank_has_its_choice(run):
    words = ("plan", EXPERTS, "--tp", "2", "--rank", "all", "--device", "sm80")
    ranks = json.loads(run(*words, "--json").out)["ranks"]
    out = run(*words).out

    assert all(rank["kernels"]["device"] == "sm80" for rank in ranks)
    assert out.count("Kernels of every rank") == 1
    assert "The rank that holds most: sm80 40 GB class: fits, 80 GB class: fits.\n" in out


def test_ranks_that_differ_are_shown_one_by_one():
    import fp8load
    from fp8load.inspection import plan_report
    from fp8load.runtime.choices import kernels_of
    from fp8load.runtime.devices import parse_device
    from fp8load_cli.render.text import Style, draw
    from fp8load_cli.render.views.kernels import kernels_of_ranks

    plan = fp8load.open(CLEAN).plan()
    reports = [
        plan_report(plan).model_copy(update={"kernels": kernels_of(plan, parse_device("cpu"), backend)})
        for backend in ("reference", None)
    ]
    text = draw(kernels_of_ranks(reports), Style())

    assert "Kernels of rank 0  cpu; reference was asked for" in text
    assert "Kernels of rank 1  cpu; all" in text
    assert kernels_of_ranks([plan_report(plan)]) == []


def test_the_explanation_ends_with_the_kernel(run):
    tensor = "model.layers.3.self_attn.k_proj.weight"
    lines = run("plan", CLEAN, "--explain", tensor, "--device", "sm80").out.splitlines()
    plain = run("plan", CLEAN, "--explain", tensor).out.splitlines()

    assert lines[: len(plain)] == plain
    assert lines[len(plain)] == "  kernel   weight_only on sm80, N 2,048, K 1,024"


def test_1_a_forced_backend_refuses_with_its_reason(run):
    result = run("plan", CLEAN, "--device", "sm80", "--backend", "triton_block")

    assert (result.code, result.out) == (1, "")
    assert "error[BKD801] triton_block was requested and cannot run here" in result.err
    assert "needs compute capability 8.9, and this is sm80, 8.0" in result.err


def test_2_there_is_no_such_backend_or_device(run):
    backend = run("plan", CLEAN, "--backend", "triton_blok")
    device = run("plan", CLEAN, "--device", "sm91")

    assert (backend.code, device.code) == (2, 2)
    assert "error[BKD800] there is no backend 'triton_blok'" in backend.err
    assert "did you mean sm90" in device.err


def test_a_forced_backend_is_named_beside_the_device(run):
    out = run("plan", CLEAN, "--backend", "reference", "--device", "cpu").out

    assert "Kernels  cpu; reference was asked for; all f8_e4m3" in out
    assert "refused" not in out


def test_1_the_choice_of_kernels_needs_torch():
    done = python(blocked("torch"), "plan", CLEAN, "--device", "sm90")

    assert done.returncode == 1
    assert b"error[BKD803] the choice of kernels needs torch" in done.stderr


def test_several_backends_are_named_by_commas_or_one_by_one(run):
    words = ("plan", "fixtures/checkpoints/hf-qwen3moe-fp8-block32", "--device", "sm90")
    comma = run(*words, "--backend", "triton_block,triton_grouped")
    twice = run(*words, "--backend", "triton_block", "--backend", "triton_grouped")

    assert comma.out == twice.out
    assert "triton_block, triton_grouped were asked for" in comma.out


def test_2_an_empty_device_is_not_this_machine(run):
    result = run("plan", CLEAN, "--device", "")

    assert result.code == 2
    assert "no such GPU architecture" in result.err


def test_2_an_empty_list_of_backends_is_not_every_backend(run):
    for words in (("plan", CLEAN, "--device", "sm90"), ("bench", "gemm", "--shapes", "small.square")):
        empty = run(*words, "--backend", ",")
        assert empty.code == 2
        assert "--backend names nothing" in empty.err


def test_1_a_backend_of_experts_does_not_measure_layers(run):
    result = run("bench", "gemm", "--shapes", "small.square", "--backend", "triton_grouped")

    assert (result.code, result.out) == (1, "")
    assert "it runs stacks of experts, and products of single layers are measured here" in result.err


def test_a_backend_may_come_from_the_environment_and_an_option_goes_before_it(run, monkeypatch):
    monkeypatch.setenv("FP8LOAD_BACKEND", "emulated,reference")

    assert json.loads(run("plan", CLEAN, "--json").out)["kernels"]["forced"] == "emulated, reference"
    chosen = json.loads(run("plan", CLEAN, "--backend", "reference", "--json").out)["kernels"]["chosen"]
    assert {one["backend"] for one in chosen} == {"reference"}


def test_1_the_gpu_of_this_machine_where_there_is_none(run, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    result = run("plan", CLEAN, "--device", "cuda")

    assert result.code == 1
    assert "BKD802" in result.err
