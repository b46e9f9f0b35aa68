"""--engine, --tp and --arch: what `verify` says of targets, in text, JSON and exit codes."""

from __future__ import annotations

import json

import pytest

from .conftest import CLEAN

NAMED = "fixtures/checkpoints/hf-qwen3-fp8-pertensor"


def test_a_checkpoint_that_the_named_engine_mis_reads_exits_1_and_one_that_it_reads_0(run):
    assert run("verify", NAMED).code == 0
    assert run("verify", NAMED, "--engine", "vllm@0.33").code == 1
    assert run("verify", NAMED, "--engine", "transformers@5.23").code == 0


def test_a_finding_names_engine_version_and_remedy(run):
    out = run("verify", NAMED, "--engine", "sglang@0.5.4").out

    assert "error[F8L203] scale-name-dialect: 14 x SGLang 0.5.4 does not read weight_scale_inv" in out
    assert "hint      rename weight_scale_inv to weight_scale" in out


def test_engines_come_by_comma_or_by_repetition(run):
    together = json.loads(run("verify", NAMED, "--engine", "vllm@0.33,sglang@0.5.4", "--json").out)
    apart = json.loads(run("verify", NAMED, "--engine", "vllm@0.33", "--engine", "sglang@0.5.4", "--json").out)

    assert together["engines"] == apart["engines"] == ["vllm@0.33", "sglang@0.5.4"]
    assert together["findings"] == apart["findings"]


def test_without_an_engine_one_line_says_who_loads_it(run):
    lines = [line for line in run("verify", NAMED).out.splitlines() if line.startswith("  engines: ")]

    assert lines == [
        "  engines: nothing known against llama.cpp's converter 0024aa7, transformers 5.23; not SGLang 0.5.23 (F8L203 "
        "scale-name-dialect), TensorRT-LLM 008e0af (F8L108 version-drift), vLLM 0.33 (F8L203 scale-name-dialect)"
    ]


def test_the_same_stands_in_json(run):
    report = json.loads(run("verify", NAMED, "--json").out)

    assert {engine["engine"]: engine["codes"] for engine in report["portability"] if not engine["loads"]} == {
        "sglang": ["F8L203"], "tensorrt-llm": ["F8L108"], "vllm": ["F8L203"],
    }  # fmt: skip


@pytest.mark.parametrize(("options", "near"), [
    (("--engine", ""), "one of llama.cpp"),
    (("--engine", "vlm"), "did you mean vllm"), (("--engine", "vllm@0.32"), "did you mean 0.33"),
    (("--arch", "sm91"), "did you mean sm90"),
])  # fmt: skip
def test_an_unknown_target_is_a_usage_error(run, options, near):
    result = run("verify", CLEAN, *options)

    assert result.code == 2
    assert near in result.err


def test_a_target_makes_a_memory_plan(run):
    assert "memory-plan: memory at tp=2" in run("verify", CLEAN, "--tp", "2").out
    assert "memory-plan" not in run("verify", CLEAN).out
