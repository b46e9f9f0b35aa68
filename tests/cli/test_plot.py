"""inspect --plot scales: what is drawn, and in which characters."""

from __future__ import annotations

import numpy as np
import pytest

from fp8load.rules.samples import LLAMA
from fp8load.survey import kind_of, survey_of
from fp8load_cli.render.text import Style, draw
from fp8load_cli.render.views.scales import bar, scales_document
from rules.examples import checkpoint_of, written

CHECKPOINT = "fixtures/checkpoints/hf-llama256-fp8-block"
SCALE = "model.layers.0.mlp.down_proj.weight_scale_inv"
GATE = "model.layers.0.mlp.gate_proj.weight_scale_inv"
TWO_LAYERS = LLAMA.replace('"num_hidden_layers": 1', '"num_hidden_layers": 2').replace("layers.0", "layers.{0..1}")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("model.layers.3.mlp.experts.7.down_proj.weight_scale", (3, "mlp.experts.down_proj")),
     ("lm_head.weight_scale", (None, "lm_head")), ("h.0.attn.k_scale", (0, "attn")), ("scale", (None, "scale")),
     ("model.layers.3.mlp.experts.gate_up_proj_scale[5]", (3, "mlp.experts"))],
)  # fmt: skip
def test_a_scale_has_a_layer_and_a_kind(name, expected):
    assert kind_of(name) == expected


def test_a_survey_counts_every_value_once():
    survey = survey_of(checkpoint_of(LLAMA, {SCALE: 0.25, GATE: -1.0}))
    counts = survey.histograms["weight_scale"]

    assert counts[-2] == 8
    assert survey.odd["weight_scale"] == 8
    assert sum(counts.values()) == sum(view.meta.num_elements for view in survey.scales) - 8


@pytest.mark.parametrize("chunk", [8, 1 << 20])
def test_an_outlier_has_its_exact_block(monkeypatch, chunk):
    monkeypatch.setattr("fp8load.rules.scales.CHUNK", chunk)
    files = written(TWO_LAYERS, {})
    ckpt = checkpoint_of(TWO_LAYERS)
    meta, data = ckpt.index.tensors[SCALE], bytearray(files["model.safetensors"])
    at = meta.begin + 4 * 6
    data[at : at + 4] = np.float32(2.0**12).tobytes()
    (outlier,) = survey_of(checkpoint_of(TWO_LAYERS, files={"model.safetensors": bytes(data)})).outliers()

    assert (outlier.name, outlier.position, outlier.log2) == (SCALE, (1, 2), 12.0)
    assert outlier.usual == pytest.approx(0.0, abs=1 / 64)


def test_the_median_of_a_tensor_in_pieces_is_that_of_the_whole(monkeypatch):
    whole = survey_of(checkpoint_of(LLAMA, {SCALE: 0.3}))
    monkeypatch.setattr("fp8load.rules.scales.CHUNK", 8)
    pieces = survey_of(checkpoint_of(LLAMA, {SCALE: 0.3}))

    assert whole.histograms == pieces.histograms
    for one, other in zip(whole.scales, pieces.scales, strict=True):
        assert other.median == pytest.approx(one.median, abs=1 / 64)
        assert (one.low, one.high, one.at_low, one.at_high) == (other.low, other.high, other.at_low, other.at_high)


def test_a_tensor_without_a_positive_value_has_no_median():
    survey = survey_of(checkpoint_of(LLAMA, {SCALE: 0.0}))

    assert [view.median for view in survey.scales if view.meta.name == SCALE] == [None]
    assert (0, "mlp.down_proj") not in survey.medians("weight_scale")


@pytest.mark.parametrize("count", [1, 7, 500, 1000])
def test_a_bar_is_as_long_as_its_share_and_never_nothing(count):
    assert len(bar(count, 1000, unicode=False)) == max(1, round(40 * count / 1000))
    assert 0 < len(bar(count, 1000, unicode=True)) <= 41


def test_a_pipe_gets_ascii(run):
    result = run("inspect", CHECKPOINT, "--plot", "scales")

    assert result.code == 0
    assert result.out.isascii()
    assert "weight_scale  48 values, all positive and finite" in result.out
    assert "self_attn.q_proj" in result.out


def test_blocks_are_drawn_where_they_can_be_shown():
    document = scales_document(survey_of(checkpoint_of(TWO_LAYERS, {SCALE: 0.25})), unicode=True)

    assert "█" in draw(document, Style())


def test_a_checkpoint_without_scales_says_so():
    document = scales_document(survey_of(checkpoint_of("m.weight BF16 [8, 8]\n")), unicode=True)

    assert "No scales" in draw(document, Style())


@pytest.mark.parametrize(
    "words", [("--plot", "amax"), ("--plot", "scales", "--json"), ("--plot", "scales", "--tree"),
              ("--plot", "scales", "--skeleton")],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(run, words):
    assert run("inspect", CHECKPOINT, *words).code == 2


def test_a_skeleton_has_no_values(run):
    assert run("inspect", "fixtures/skeletons/llama-fp8-block.skel", "--plot", "scales").code == 3
