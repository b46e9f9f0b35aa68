"""recipe.yaml: what llm-compressor was asked for, against what config.json says was done."""

from __future__ import annotations

import pytest

import fp8load
from fp8load.index.plain_yaml import read_yaml
from oracle.catalog import FOLDER
from rules.examples import checkpoint_of
from sketch import open_skeleton

CONFIG = (
    'config {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"targets": '
    '["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": "tensor"}, "input_activations": '
    '{"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": false}}}, "ignore": ["lm_head"]%s}}\n'
    "model.layers.0.mlp.down_proj.weight F8_E4M3 [128, 128]\n"
    "model.layers.0.mlp.down_proj.{weight,input}_scale F32 [1]\n"
    "model.layers.0.self_attn.{k,v}_scale F32 [1]\n"
)
KV = ', "kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": false}'
RECIPE = """\
default_stage:
  default_modifiers:
    QuantizationModifier:
      targets: [Linear]
      ignore: [lm_head, 're:.*router$']
      scheme: {}
"""
CACHE = """\
      kv_cache_scheme:
        num_bits: 8
        type: float
        symmetric: true
        strategy: tensor
        dynamic: false
"""


def said(recipe: str, config: str = CONFIG % KV) -> list[tuple[str, str, str]]:
    ckpt = checkpoint_of(config, {}, {"recipe.yaml": recipe.encode()})
    found = [one for one in ckpt.verify("headers").findings if one.code == "F8L103"]
    return [(str(one.severity), ": ".join([*one.modules, one.expected]), one.got) for one in found]


@pytest.mark.parametrize("path", [path for path in sorted(FOLDER.iterdir()) if (path / "recipe.yaml").exists()],
                         ids=lambda path: path.name)  # fmt: skip
def test_a_recipe_that_llm_compressor_followed_says_what_config_json_says(path):
    assert [one for one in fp8load.open(path).verify("headers").findings if one.code == "F8L103"] == []


def test_a_recipe_that_asks_for_another_scheme_is_a_warning_that_names_a_module():
    ((severity, expected, got),) = said(RECIPE.format("FP8_DYNAMIC"))

    assert severity == "warning"
    assert expected.startswith("model.layers.0.mlp.down_proj: f8_e4m3 per tensor")
    assert "per channel" in got


def test_a_recipe_that_ignores_what_is_quantized_is_a_warning():
    ((_, _, got),) = said(RECIPE.format("FP8").replace("router$", "down_proj$"))

    assert got == "not quantized"


def test_a_cache_that_the_recipe_asks_for_is_in_config_json_and_one_that_it_is_silent_about_may_be():
    assert said(RECIPE.format("FP8") + CACHE) == said(RECIPE.format("FP8")) == []
    assert [got for _, _, got in said(RECIPE.format("FP8") + CACHE, CONFIG % "")] == ["a KV-cache scheme of F8_E4M3"]


@pytest.mark.parametrize("recipe", [
    RECIPE.format("MY_SCHEME"), RECIPE.format("[FP8]"), RECIPE.format("FP8").replace("[Linear]", "7"),
    "default_stage: 3\n", "quant_stage:\n  quant_modifiers:\n    SmoothQuantModifier: {smoothing_strength: 0.8}\n",
    RECIPE.format("FP8_DYNAMIC") + "    GPTQModifier: {scheme: W4A16, targets: [Linear]}\n",
])  # fmt: skip
def test_of_a_recipe_that_is_not_understood_nothing_is_said(recipe):
    assert said(recipe) == []


@pytest.mark.parametrize(("text", "reason"), [
    ("a: [1\n", "expected"), ("- 1\n", "list"), ("a: &x [1]\nb: *x\n", "alias"), ("a: 1\na: 2\n", "twice"),
    ("a: 2026-01-01\n", "date"), ("[" * 5000, "deep"), ("1: 2\n", "no text"),
    ("a: !!python/name:os.system\n", "constr"),
    ("a: " + "x" * 300_000, "bytes"), ("", "nothing"),
])  # fmt: skip
def test_a_file_that_is_no_recipe_is_a_note_with_the_reason_and_the_checkpoint_loads(text, reason):
    ckpt = checkpoint_of(CONFIG % KV, {}, {"recipe.yaml": text.encode()})
    ((severity, message, got),) = [(str(one.severity), one.message, one.got)
                                   for one in ckpt.verify("headers").findings if one.code == "F8L103"]  # fmt: skip

    assert severity == "info"
    assert message == "recipe.yaml is not read, and not compared with the configuration"
    assert reason in got
    assert ckpt.format.name == "compressed_tensors"


def test_yaml_is_read_as_json_has_it():
    assert read_yaml(b"a: {b: [1, 2.5, true, null, 'x: y']}\n") == {"a": {"b": [1, 2.5, True, None, "x: y"]}}


def test_a_skeleton_keeps_the_recipe():
    line = 'file recipe.yaml {"s": {"m_modifiers": {"Q": {"targets": ["Linear"], "scheme": "FP8_DYNAMIC"}}}}\n'

    assert [one.code for one in open_skeleton(CONFIG % KV + line).verify("headers").findings if one.code == "F8L103"]
