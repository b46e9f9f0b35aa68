"""How loud an entry of the ignore list is that covers nothing (F8L301)."""

from __future__ import annotations

import pytest

from fp8load.rules.samples import LISTED, QUANTIZED
from rules.examples import checkpoint_of


@pytest.mark.parametrize(
    "entry",
    [
        "language_model.layers.1.mlp.up_proj",
        "model.layers.1.mlp.up_proj.linear",
        "model.layers.1.mlp.upproj",
    ],
)
def test_an_entry_that_misses_the_linear_layer_it_means_is_an_error(entry):
    plain = "model.layers.1.mlp.up_proj.weight  BF16  [256, 256]\n"
    report = checkpoint_of(LISTED.replace("lm_head", entry) + QUANTIZED + plain).verify("headers")

    (finding,) = [finding for finding in report.findings if finding.code == "F8L301"]
    assert finding.severity == "error"
    assert "model.layers.1.mlp.up_proj is stored in 16 bits" in finding.got


def test_an_entry_that_means_no_claimed_layer_stays_a_warning():
    router = "model.layers.0.mlp.gate.weight  BF16  [8, 256]\n"
    report = checkpoint_of(LISTED.replace("lm_head", "old.layers.0.mlp.gate") + QUANTIZED + router).verify("headers")

    assert [finding.severity for finding in report.findings if finding.code == "F8L301"] == ["warning"]
