"""F8L707 and engines: whose kernels round scales to powers of two, on which GPU, and of which layers."""

from __future__ import annotations

import pytest

import fp8load
from fp8load.rules.samples import BLOCK, POWERS, QUANTIZED
from rules.examples import checkpoint_of
from rules.repair_cases import Case
from rules.test_repairs import on_disk

SCALE = "model.layers.0.mlp.down_proj.weight_scale_inv"
NARROW = QUANTIZED.replace("[256, 256]", "[256, 192]")


def said(skeleton: str, engine: str, arch: str, *, number: float = 0.003) -> list[tuple[str, str, str]]:
    report = checkpoint_of(skeleton, {SCALE: number}, {}).verify("scales", engine=engine, arch=arch)
    return [(found.severity, found.message, found.hint) for found in report.findings if found.code == "F8L707"]


@pytest.mark.parametrize(("engine", "arch", "title"), [
    ("vllm@0.33", "sm90", "vLLM 0.33"), ("vllm@0.33", "sm100", "vLLM 0.33"), ("vllm@0.33", "sm120", "vLLM 0.33"),
    ("vllm@0.11", "sm100", "vLLM 0.11"), ("sglang@0.5.23", "sm103", "SGLang 0.5.23"),
])  # fmt: skip
def test_an_engine_that_rounds_scales_on_a_gpu_is_named_with_what_keeps_it_from_that(engine, arch, title):
    ((severity, message, hint),) = said(BLOCK + QUANTIZED, engine, arch)

    assert severity == "warning"
    assert message == f"{title} rounds these scales to powers of two on {arch}, and the weights a second time"
    assert "VLLM_USE_DEEP_GEMM_E8M0=0" in hint or "--fp8-gemm-backend" in hint


@pytest.mark.parametrize(("engine", "arch"), [
    ("vllm@0.33", "sm89"), ("vllm@0.11", "sm90"), ("vllm@0.11", "sm120"), ("sglang@0.5.23", "sm90"),
    ("sglang@0.5.4", "sm100"), ("transformers@5.23", "sm90"),
])  # fmt: skip
def test_an_engine_that_takes_scales_as_stored_there_is_not_blamed(engine, arch):
    assert said(BLOCK + QUANTIZED, engine, arch) == []


def test_without_an_engine_only_what_the_configuration_says_counts():
    report = checkpoint_of(BLOCK + QUANTIZED, {SCALE: 0.003}, {}).verify("scales", arch="sm100")

    assert "F8L707" not in {found.code for found in report.findings}


def test_what_the_configuration_says_is_noted_where_the_engine_does_not_round():
    ((severity, message, _),) = said(POWERS + QUANTIZED, "vllm@0.33", "sm89")

    assert severity == "info"
    assert "although the configuration says ue8m0" in message


def test_powers_of_two_lose_nothing_and_a_shape_that_the_kernel_does_not_take_neither():
    assert said(BLOCK + QUANTIZED, "vllm@0.33", "sm100", number=2**-7) == []
    assert said(BLOCK + NARROW, "vllm@0.33", "sm100") == []


def test_numbers_that_could_be_bytes_are_no_bytes_because_an_engine_rounds():
    report = checkpoint_of(BLOCK + QUANTIZED, {SCALE: 120.0}, {}).verify("scales", engine="vllm", arch="sm100")

    assert [found.code for found in report.findings if found.severity != "info"] == ["F8L707"]


def test_scales_that_an_engine_rounds_are_repaired_for_that_engine(tmp_path):
    """Where no engine is named they are right as they are, and left alone."""
    folder = on_disk(Case(BLOCK + QUANTIZED, values={SCALE: 0.003}), tmp_path / "stored")
    with fp8load.open(folder) as ckpt:
        report = ckpt.verify(engine="vllm@0.33", arch="sm100")
        (finding,) = [found for found in report.findings if found.code == "F8L707"]

        assert finding.fix is not None
        assert finding.fix.startswith("`--fix F8L707`")
        assert ckpt.fix(("F8L707",)).changes.is_empty
        ckpt.fix(("F8L707",), engine="vllm@0.33", arch="sm100").write(tmp_path / "powers")
    with fp8load.open(tmp_path / "powers") as copy:
        assert "F8L707" not in {found.code for found in copy.verify(engine="vllm@0.33", arch="sm100").findings}
