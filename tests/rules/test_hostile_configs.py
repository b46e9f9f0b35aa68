"""A config.json may say anything: verify answers with a finding, soon, and never with a traceback."""

from __future__ import annotations

import pytest

from fp8load.rules.samples import BLOCK, LISTED, LLAMA, QUANTIZED
from rules.examples import checkpoint_of

HOSTILE = {
    "more layers than any model has": (LLAMA.replace("_layers\": 1,", "_layers\": 1000000000000,"), "F8L109"),
    "no layers": (LLAMA.replace('"num_hidden_layers": 1', '"num_hidden_layers": -1'), "F8L109"),
    "an expression that is none": (LISTED.replace('"lm_head"', '"re:("') + QUANTIZED, "F8L107"),
    "blocks without rows": (BLOCK.replace("[128, 128]", "[0, 128]") + QUANTIZED, "F8L502"),
    "a word where a family computes with a number": (
        LLAMA.replace('"llama"', '"qwen3_moe"').replace('"vocab_size"', '"decoder_sparse_step": "x", "vocab_size"'),
        "F8L109"),
    "a list where quanto says what a weight is": (
        'file quanto_qmap.json {"m": {"weights": ["x"], "activations": "none"}}\n' + QUANTIZED, "F8L107"),
    "a quantization_config without a method": (BLOCK.replace('"quant_method": "fp8", ', "") + QUANTIZED, "F8L110"),
}  # fmt: skip


@pytest.mark.parametrize(("skeleton", "code"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_finding_is_the_answer_to(skeleton, code):
    report = checkpoint_of(skeleton).verify("weights")

    assert code in {finding.code for finding in report.findings if finding.severity == "error"}
    assert report.summary.crashed == []
    assert not report.ok


def test_a_value_that_a_family_cannot_compute_with_is_named():
    report = checkpoint_of(HOSTILE["a word where a family computes with a number"][0]).verify("headers")

    (finding,) = [finding for finding in report.findings if "cannot have" in finding.message]
    assert finding.got == "decoder_sparse_step: 'x'"


@pytest.mark.parametrize("said", ['"model_type": 3', '"model_type": "mixtral", "num_local_experts": 1000000000000000'])
def test_inspect_answers_soon_whatever_the_configuration_says(said):
    ckpt = checkpoint_of(LLAMA.replace('"model_type": "llama"', said))

    assert ckpt.summary().num_tensors == len(ckpt.index.tensors)


def test_thousands_of_ignored_names_are_looked_up():
    names = ", ".join(f'"model.layers.{layer}.mlp.experts.{expert}.up"' for layer in range(20) for expert in range(100))
    layers = "model.layers.{0..19}.mlp.experts.{0..99}.down_proj.weight  F8_E4M3 [256, 256]\n"
    scales = "model.layers.{0..19}.mlp.experts.{0..99}.down_proj.weight_scale_inv  F32 [2, 2]\n"
    calls = 0
    ckpt = checkpoint_of(LISTED.replace('"lm_head"', names) + layers + scales)
    covers = ckpt.format.covers

    def counted(entry: str, module: str) -> bool:
        nonlocal calls
        calls += 1
        return covers(entry, module)

    object.__setattr__(ckpt.format, "covers", counted)
    report = ckpt.verify("headers")

    assert [finding.count for finding in report.findings if finding.code == "F8L301"] == [2000]
    assert calls < 10_000
