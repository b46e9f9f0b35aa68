"""The text of every command over skeletons and real checkpoints. FP8LOAD_UPDATE_GOLDEN=1 writes the files anew.

How many rules exist changes with every rule that is added, so their counts are not part of the files.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
SKELETONS = ("llama-fp8-block", "qwen3-ct-channel", "phi3-fused", "llama-broken")
REAL = ("hf-llama256-fp8-block", "ct-phi3-fp8-static-kv", "hf-llamaodd-fp8-block-16x8")
COMMANDS = {
    "inspect": ("inspect",),
    "tree": ("inspect", "--tree", "--depth", "4"),
    "tensors": ("inspect", "--tensors", "--module", "model.layers.0.**"),
    "verify": ("verify", "--select", "F8L0,F8L1,F8L2,F8L501"),
    "plan": ("plan", "--tp", "2", "--rank", "1", "--module", "**", "-v"),
}
SOURCES = {name: f"fixtures/skeletons/{name}.skel" for name in SKELETONS} | {
    name: f"fixtures/checkpoints/{name}" for name in REAL
}
MIXTURE, STACKED = "fixtures/checkpoints/mo-qwen3moe-nvfp4", "fixtures/checkpoints/mo-gptoss-fp8"
PLAIN = "fixtures/skeletons/qwen3moe-bf16.skel"
MIXED = "fixtures/checkpoints/mo-qwen3moe-auto"
EXPERTS = "model.layers.1.mlp.experts"
OTHER = {
    "experts-inspect": ("inspect", MIXTURE),
    "experts-tree": ("inspect", MIXTURE, "--tree"),
    "experts-module": ("inspect", MIXTURE, "--module", EXPERTS),
    "experts-tensors": ("inspect", MIXTURE, "--module", f"{EXPERTS}.w2", "--tensors"),
    "experts-inspect-stacked": ("inspect", STACKED),
    "experts-tensors-stacked": ("inspect", STACKED, "--module", EXPERTS, "--tensors"),
    "experts-plan": ("plan", MIXTURE, "--ep", "2", "--rank", "1", "--module", EXPERTS, "-v"),
    "experts-plan-all": ("plan", STACKED, "--tp", "2", "--ep", "2", "--rank", "all"),
    "experts-plan-ep-rank": ("plan", STACKED, "--tp", "2", "--ep", "2", "--rank", "1", "--ep-rank", "0"),
    "experts-explain": ("plan", MIXTURE, "--tp", "2", "--rank", "1", "--explain", f"{EXPERTS}.2.up_proj.weight"),
    "experts-explain-elsewhere": ("plan", MIXTURE, "--ep", "2", "--explain", f"{EXPERTS}.2.up_proj.weight"),
    "experts-explain-stacked": ("plan", STACKED, "--ep", "2", "--rank", "1", "--explain", f"{EXPERTS}.gate_up_proj"),
    "experts-explain-shared": ("plan", STACKED, "--explain", f"{EXPERTS}.gate_up_proj_weight_scale"),
    "plan-all": ("plan", SOURCES["phi3-fused"], "--tp", "4", "--rank", "all"),
    "plan-explain": ("plan", SOURCES["llama-fp8-block"], "--tp", "2", "--rank", "1", "--explain",
                     "model.layers.3.self_attn.k_proj.weight"),
    "plan-device": ("plan", MIXED, "--device", "sm80"),
    "plan-device-all": ("plan", MIXED, "--tp", "2", "--rank", "all", "--device", "sm80"),
    "plan-device-explain": ("plan", SOURCES["llama-fp8-block"], "--device", "sm80", "--explain",
                            "model.layers.3.self_attn.k_proj.weight"),
    "plan-backend-refuses": ("plan", SOURCES["llama-fp8-block"], "--device", "sm80", "--backend", "triton_block"),
    "plan-backend-unknown": ("plan", SOURCES["llama-fp8-block"], "--device", "sm80", "--backend", "cutlass"),
    "plan-quantize": ("plan", PLAIN, "--quantize", "fp8-channel", "--module", "**", "--device", "sm90"),
    "plan-quantize-all": ("plan", PLAIN, "--quantize", "fp8-tensor", "--tp", "2", "--rank", "all"),
    "plan-quantize-explain": ("plan", PLAIN, "--quantize", "fp8-channel", "--explain", f"{EXPERTS}.2.up_proj.weight"),
    "plan-quantize-splits-a-block": ("plan", PLAIN, "--quantize", "fp8-block", "--tp", "2"),
    "plan-quantize-twice": ("plan", SOURCES["phi3-fused"], "--quantize", "fp8-tensor"),
    "plan-quantize-unknown": ("plan", PLAIN, "--quantize", "fp9"),
    "verify-concise": ("verify", SOURCES["llama-broken"], "-f", "concise", "--select", "F8L2"),
    "verify-github": ("verify", SOURCES["llama-broken"], "-f", "github", "--select", "F8L2"),
    "verify-md": ("verify", SOURCES["llama-broken"], "-f", "md", "--select", "F8L2"),
    "verify-quiet": ("verify", SOURCES["llama-broken"], "-q", "--select", "F8L2"),
    "verify-no-group": ("verify", SOURCES["llama-broken"], "-q", "--no-group", "--select", "F8L2"),
    "verify-statistics": ("verify", SOURCES["llama-broken"], "--statistics", "--select", "F8L2"),
    "skeleton": ("inspect", SOURCES["qwen3-ct-channel"], "--skeleton"),
    "contract": ("inspect", SOURCES["qwen3-ct-channel"], "--contract"),
    "contract-experts": ("inspect", STACKED, "--contract"),
    "contract-excludes": ("inspect", STACKED, "--contract", "--tree"),
    "inspect-md": ("inspect", SOURCES["phi3-fused"], "-f", "md"),
    "rule": ("rule", "F8L202"),
    "help": ("-h",),
    "help-inspect": ("inspect", "-h"),
    "help-verify": ("verify", "-h"),
    "help-plan": ("plan", "-h"),
    "help-bench": ("bench", "-h"),
    "help-bench-gemm": ("bench", "gemm", "-h"),
    "help-bench-load": ("bench", "load", "-h"),
    "bench-load-rank": ("bench", "load", SOURCES["llama-fp8-block"], "--tp", "2", "--rank", "2"),
    "bench-load-skeleton": ("bench", "load", SOURCES["llama-fp8-block"], "--device", "cpu"),
    "bench-unknown-backend": ("bench", "gemm", "--backend", "cutlass", "--device", "cpu"),
    "bench-refused": ("bench", "gemm", "--shapes", "64x128", "--scheme", "block", "--device", "cpu", "--backend",
                      "triton_block"),
    "help-rule": ("rule", "-h"),
    "help-doctor": ("doctor", "-h"),
    "help-schema": ("schema", "-h"),
}  # fmt: skip
CASES = {
    f"{command}-{source}": (words[0], SOURCES[source], *words[1:])
    for command, words in COMMANDS.items()
    for source in SOURCES
}
CASES |= OTHER


def without_counts(text: str) -> str:
    """The text with the number of rules left out, and the bytes that were read with it."""
    text = re.sub(r"\d+ (rules? )?(passed|not run)", r"N \2", text)
    text = re.sub(r" {2,}(?=N (passed|not run))", "  ", text)
    return re.sub(r"not run: .*", "not run: ...", text)


@pytest.mark.parametrize("case", CASES)
def test_the_output_is_the_golden_file(run, monkeypatch, case):
    monkeypatch.setenv("COLUMNS", "100")
    result = run(*CASES[case])
    text = without_counts(result.out) + "".join(f"stderr: {line}\n" for line in result.err.splitlines())
    text += f"exit {result.code}\n"
    path = GOLDEN / f"{case}.txt"
    if os.environ.get("FP8LOAD_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")

    assert text == path.read_text(encoding="utf-8")


def test_every_golden_file_belongs_to_a_case():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_a_pipe_gets_no_colour_no_boxes_and_no_trailing_blanks(run, case):
    out = run(*CASES[case]).out

    assert "\x1b" not in out
    assert not set(out) & set("│─┌┐└┘╭╮╰╯┃━")
    assert all(line == line.rstrip() for line in out.splitlines())
