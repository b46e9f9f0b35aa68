"""Where the rules on headers and JSON turn: what is just enough for a finding, and what is not."""

from __future__ import annotations

import json

import pytest

from fp8load.index.layout import encode_header
from fp8load.index.skeleton import parse_skeleton
from fp8load.rules.f8l207_bias_lost import BIASED, LAYERS
from fp8load.rules.f8l404_expert_3d_layout import DOWN, GATE_UP, HIDDEN
from fp8load.rules.f8l405_block_straddles_fused_boundary import ATTENTION
from fp8load.rules.mtp import MtpNames
from fp8load.rules.samples import BLOCK, LISTED, LLAMA, POWERS, QUANTIZED, STATIC_KV
from rules.examples import checkpoint_of
from sketch import Llama

INDEX = "model.safetensors.index.json"
WEIGHT, SCALE = (line.split()[0] for line in QUANTIZED.splitlines())
BIAS = "model.layers.{0..%d}.self_attn.q_proj.bias  BF16  [256]\n"
NORM = "model.norm.weight  BF16  [256]  @ model-2.safetensors\n"
COMFY = 'inside comfy_metadata {"a": {"format": "float8_e4m3fn"}}\n'


def found(skeleton: str, code: str, files=None) -> list[tuple[str, int]]:
    """Severity and count of each finding under a code."""
    report = checkpoint_of(skeleton, files=files).verify("headers")
    assert report.summary.crashed == []
    return [(str(finding.severity), finding.count) for finding in report.findings if finding.code == code]


def with_metadata(text: str) -> dict[str, bytes]:
    """The file of `QUANTIZED` with this JSON as its metadata."""
    index = parse_skeleton(QUANTIZED)
    header = encode_header(index.tensors.values(), index.files["model.safetensors"].header_nbytes, {"?": "?"})
    body = header[8:].replace(b'{"?":"?"}', text.encode()).rstrip()
    return {"model.safetensors": len(body).to_bytes(8, "little") + body + bytes(index.nbytes)}


@pytest.mark.parametrize(("metadata", "expected"), [
    ('{"format":"pt"}', []), ('{"format":"mlx"}', []), ('{"format":"np"}', [("info", 1)]), ("null", [("info", 1)]),
    ("{}", [("info", 1)]), ('{"format":1}', [("error", 1)]), ("[]", [("error", 1)]), ('{"source":"pt"}', [("info", 1)]),
])  # fmt: skip
def test_metadata_are_strings_and_name_a_framework(metadata, expected):
    assert found(BLOCK + QUANTIZED, "F8L007", with_metadata(metadata)) == expected


def test_the_framework_that_is_named_is_shown():
    said = (('{"format":"np"}', "'np'"), ('{"source":"pt"}', "no format"), ("{}", "no metadata, or empty ones"))
    for metadata, got in said:
        report = checkpoint_of(BLOCK + QUANTIZED, files=with_metadata(metadata)).verify("headers")
        assert [finding.got for finding in report.findings if finding.code == "F8L007"] == [got]


def test_a_file_for_comfyui_needs_no_framework():
    assert found(COMFY + "a.weight F8_E4M3 [8, 8]\na.weight_scale F32 []\n", "F8L007") == []


@pytest.mark.parametrize(("names", "expected"), [((WEIGHT, SCALE), [("info", 1)]), ((WEIGHT, SCALE, "gone"), [])])
def test_a_total_is_compared_only_where_every_tensor_is_there(names, expected):
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, "model.safetensors")}

    assert found(BLOCK + QUANTIZED, "F8L012", {INDEX: json.dumps(index).encode()}) == expected
    del index["metadata"]
    assert found(BLOCK + QUANTIZED, "F8L012", {INDEX: json.dumps(index).encode()}) == []


def test_a_bias_in_another_file_is_no_matter_of_scales():
    bias = "model.layers.0.mlp.down_proj.bias  BF16  [256]  @ model-2.safetensors\n"

    assert found(BLOCK + QUANTIZED + bias, "F8L206") == []


@pytest.mark.parametrize(("skeleton", "expected"), [
    (BLOCK + LAYERS + BIAS % 2, [("warning", 1)]),
    (BLOCK + LAYERS + BIAS % 1, []),  # half of them: two kinds of layers
    (BLOCK + (LAYERS + BIAS % 2).replace("}.self_attn.q_proj", "}"), []),  # the steps of a sequence
    (BLOCK + LAYERS.replace("{0..3}", "{0..2}") + "m.layers.3.self_attn.q_proj.weight BF16 [8, 256]\n" + BIAS % 2, []),
    (BIASED + LAYERS, [("warning", 1)]),
    (BIASED + LAYERS + BIAS % 0, []),
    (BIASED + LAYERS.replace("q_proj", "o_proj"), []),
    (BIASED.replace('{"attention_bias": true', '{"text_config": {"attention_bias": true}') + LAYERS, [("warning", 1)]),
])  # fmt: skip
def test_a_lost_bias_is_one_that_most_siblings_have(skeleton, expected):
    assert found(skeleton, "F8L207") == expected


def test_of_a_known_family_a_lost_bias_is_a_missing_tensor():
    lines = Llama(bias=True, layers=3).skeleton().splitlines()
    text = "\n".join(line.replace("{0..2}", "{0..1}") if "q_proj.bias" in line else line for line in lines)

    assert found(text, "F8L207") == []
    assert ("error", 1) in found(text, "F8L109")


@pytest.mark.parametrize(("place", "severity"), [
    ('config {"compression_config": %s}\n', "info"), ('config {"text_config": {"quantization_config": %s}}\n', "info"),
    ('config {"a": 1}\nfile quantization_config.json %s\n', "info"), ('config {"quantization_config": %s}\n', None),
    ("file quantization_config.json %s\n", None),
])  # fmt: skip
def test_places_that_some_readers_do_not_look_at_are_noted(place, severity):
    document = BLOCK.removeprefix('config {"quantization_config": ').rstrip()[:-1]

    assert found(place % document + QUANTIZED, "F8L104") == ([] if severity is None else [(severity, 1)])


@pytest.mark.parametrize(("config", "got"), [
    ('{"hidden_act": "silu", "use_fp8_experts": true}', ["use_fp8_experts: True"]), ('{"use_fp8_experts": false}', []),
    ('{"hidden_act": "silu"}', []), ('{"text_config": {"expert_dtype_fp8": "e4m3"}}', ["expert_dtype_fp8: e4m3"]),
])  # fmt: skip
def test_a_flag_is_one_that_is_set_and_speaks_of_quantization(config, got):
    report = checkpoint_of(f"config {config}\n{QUANTIZED}").verify("headers")

    assert [finding.got for finding in report.findings if finding.code == "F8L104"] == got


MODELOPT = 'config {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["%s"]}}\n'
STATIC = (
    "model.layers.0.mlp.down_proj.weight F8_E4M3 [8, 8]\nmodel.layers.0.mlp.down_proj.{weight,input}_scale F32 []\n"
)
GATE = "model.layers.0.mlp.gate.weight  BF16  [8, 8]\n"


@pytest.mark.parametrize(("entry", "fp8", "modelopt"), [
    ("*.mlp.gate", 1, 0), ("re:.*gate", 0, 1), ("model.layers.0.mlp.gate", 0, 0), ("layers.0.mlp.gate", 0, 0),
    ("model.layers.0", 0, 0), ("lm_head", 0, 0), ("nowhere", 0, 0), ("gate", 1, 0),
])  # fmt: skip
def test_what_is_a_foreign_dialect_depends_on_the_method(entry, fp8, modelopt):
    assert found(LISTED.replace("lm_head", entry) + QUANTIZED + GATE, "F8L308") == [("info", 1)] * fp8
    assert found(MODELOPT % entry + STATIC + GATE, "F8L308") == [("info", 1)] * modelopt


def test_experts_whose_layout_their_sizes_do_not_tell_are_left_alone():
    square = DOWN.replace("[4, 256, 384]", "[4, 256, 256]").replace("[4, 2, 3]", "[4, 2, 2]")

    assert found(HIDDEN + BLOCK + GATE_UP + square, "F8L404") == []
    assert found(BLOCK + GATE_UP + DOWN.replace("[4, 256, 384]", "[4, 384, 256]"), "F8L404") == [("error", 1)]
    assert found(BLOCK + GATE_UP.replace("[4, 6, 2]", "[4, 5, 2]"), "F8L404") == []
    assert found(BLOCK + GATE_UP.replace("[4, 6, 2]", "[6, 2]"), "F8L404") == []
    both = 'config {"hidden_size": 999}\n' + BLOCK + GATE_UP + DOWN.replace("[4, 256, 384]", "[4, 384, 256]")
    assert found(both, "F8L404") == [("error", 1)]  # the scale alone: no size is the hidden one


@pytest.mark.parametrize("order", [1, -1])
def test_the_last_part_is_the_last_of_the_fused_layer_and_not_of_the_file(order):
    lines = (ATTENTION % (1600, 13)).splitlines(keepends=True)[::order]

    (finding,) = [f for f in checkpoint_of(BLOCK + "".join(lines)).verify().findings if f.code == "F8L405"]
    assert finding.tensors == ["model.layers.0.self_attn.q_a_proj.weight"]


def test_parts_of_a_tensor_that_is_stored_fused_may_end_inside_a_block_too():
    cut = Llama(fused=True, scale=(32, 32), intermediate=80)
    whole = cut.but(intermediate=96)

    assert found(cut.skeleton(), "F8L405") == [("info", 2)]
    assert found(whole.skeleton(), "F8L405") == []


@pytest.mark.parametrize(("strategy", "shape", "expected"), [
    ("channel", "[64]", 1), ("channel", "[64, 1]", 0), ("tensor", "[]", 0), ("tensor", "[1]", 0),
    ("tensor", "[1, 1]", 1),
    ("channel", "[64, 2]", 0),  # wrong, and said so elsewhere
])  # fmt: skip
def test_spellings_of_a_shape_are_noted_where_some_readers_refuse_them(strategy, shape, expected):
    weights = f'"weights": {{"num_bits": 8, "type": "float", "strategy": "{strategy}"}}'
    config = (
        'config {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": '
        f'{{"targets": ["Linear"], {weights}}}}}}}}}\n'
    )

    skeleton = f"{config}m.down_proj.weight F8_E4M3 [64, 32]\nm.down_proj.weight_scale F32 {shape}\n"
    assert found(skeleton, "F8L503") == [("info", 1)] * expected


def test_exponents_of_an_mx_format_are_its_own():
    mx = BLOCK.replace("[128, 128]", "[1, 32]") + QUANTIZED.replace("F32      [2, 2]", "U8 [256, 8]")

    assert found(mx, "F8L603") == []
    assert found(POWERS + QUANTIZED.replace("F32     ", "U8 "), "F8L603") == [("info", 1)]


def test_bytes_of_exponents_under_a_format_of_numbers_are_a_contradiction():
    exponents = QUANTIZED.replace("F32     ", "F8_E8M0 ")

    assert found(POWERS + exponents, "F8L603") == [("info", 1)]
    assert found(POWERS.replace("ue8m0", "float") + exponents, "F8L603") == [("warning", 1)]
    assert found(BLOCK + exponents, "F8L603") == [("info", 1)]


def test_a_layer_without_any_scale_of_its_cache_lacks_that_of_queries_too():
    layers = "model.layers.{0..1}.self_attn.k_proj.weight BF16 [8, 8]\nmodel.layers.{0..1}.mlp.up.weight BF16 [8, 8]\n"

    assert found(STATIC_KV + layers + "model.layers.0.self_attn.{k,v,q}_scale F32 []\n", "F8L904") == [("info", 1)]


def test_the_kind_of_a_scale_with_an_odd_shape_is_named():
    report = checkpoint_of(
        MODELOPT.replace('"FP8"', '"FP8_PER_CHANNEL_PER_TOKEN"') % "x"
        + "m.down_proj.weight F8_E4M3 [8, 8]\nm.down_proj.weight_scale F32 [8]\n"
    ).verify("headers")

    assert [finding.message for finding in report.findings if finding.code == "F8L503"] == [
        "a scale per channel has another shape than the usual one"
    ]


def test_an_empty_tensor_of_a_packed_dtype_is_described_like_others():
    assert found("m.weight F4 [2, 0]\nm.other F6_E2M3 [4, 6]\n", "F8L606") == [("info", 1), ("info", 1)]


@pytest.mark.parametrize(("name", "layer"), [
    ("mtp.0.e_proj", "mtp.0"), ("mtp.layers.1.fc", "mtp.layers.1"), ("mtp.fc", "mtp"), ("model.mtp.fc", "model.mtp"),
    ("model.layers.2.fc", "model.layers.2"), ("model.layers.1.fc", None), ("layers.2.w1", "layers.2"),
    ("language_model.model.layers.3.x", "language_model.model.layers.3"), ("vision.layers.7.fc", None),
    ("model.mtp_norm.fc", None),
])  # fmt: skip
def test_layers_for_multi_token_prediction_are_told_by_their_names(name, layer):
    assert MtpNames({"num_hidden_layers": 2}).layer(name) == layer


def test_of_a_lost_shard_the_layers_are_not_missing_twice():
    config = 'config {"num_hidden_layers": 1, "num_nextn_predict_layers": 1}\n'
    draft = "model.layers.1.norm.weight  BF16  [256]  @ model-2.safetensors\n"

    assert found(config + BLOCK + QUANTIZED + draft, "F8L911", {"model-2.safetensors": None}) == []
    assert found(config.replace('layers": 1}', 'layers": 0}') + BLOCK + QUANTIZED, "F8L911") == []
    lost = config.replace(" 1, ", " 2, ")
    assert found(lost + BLOCK + QUANTIZED + draft, "F8L109", {"model-2.safetensors": None}) == []
    assert found(lost + BLOCK + QUANTIZED + NORM, "F8L109") == [("warning", 1)]


def test_a_draft_layer_in_16_bits_is_noted_only_where_it_is_claimed_and_others_are_not_alike():
    linear = "{}.self_attn.{}.weight BF16 [256, 256]\n"
    config = 'config {"num_hidden_layers": 1}\n'
    draft = config + BLOCK + QUANTIZED + linear.format("model.layers.1", "weights_proj")

    assert found(draft, "F8L912") == [("info", 1)]
    assert found(draft + linear.format("model.layers.0", "weights_proj"), "F8L912") == []
    assert found(draft.replace(BLOCK, LISTED.replace("lm_head", "weights_proj")), "F8L912") == []
    assert found(draft.replace(BLOCK, LISTED), "F8L912") == []
    assert found(draft.replace(BLOCK, LISTED), "F8L302") == [("error", 1)]
    assert found(draft.replace("self_attn.weights_proj", "mlp.gate"), "F8L912") == []


def test_a_head_inside_a_multimodal_model_is_a_head():
    tied = 'config {"text_config": {"tie_word_embeddings": true}}\n'

    assert found(tied + BLOCK + QUANTIZED + "language_model.lm_head.weight BF16 [8, 8]\n", "F8L921") == [("info", 1)]
    assert found(tied + BLOCK + QUANTIZED + "language_model.head.weight BF16 [8, 8]\n", "F8L921") == []


def test_a_configuration_or_an_index_makes_a_file_none_of_comfyuis():
    layer = "a.weight F8_E4M3 [256, 256]\na.weight_scale F32 []\n"

    assert found(layer, "F8C001") == [("error", 1)]
    assert found('config {"model_type": "x"}\n' + layer, "F8C001") == []
    assert found(layer + NORM, "F8C001") == []
    assert found(layer.replace("weight_scale", "scale_weight"), "F8C001") == [("error", 1)]
    assert found(COMFY + layer, "F8C001") == []
    assert found(layer.replace("F8_E4M3", "BF16"), "F8C001") == []
    two = checkpoint_of(COMFY + layer + "b.weight F8_E4M3 [8, 8]\nb.scale_weight F32 []\n").verify()
    assert [f.got for f in two.findings if f.code == "F8C001"] == ["comfy_metadata, weight_scale, scale_weight"]


def test_a_pickled_copy_is_noted_once():
    copies = {
        "pytorch_model-00001-of-00002.bin": b"",
        "pytorch_model-00002-of-00002.bin": b"",
        "training_args.bin": b"",
    }

    assert found(BLOCK + QUANTIZED, "F8L006", copies) == [("info", 1)]
    assert found(BLOCK + QUANTIZED, "F8L006", {"training_args.bin": b"", "consolidated.json": b"{}"}) == []


@pytest.mark.parametrize("key", ["num_hidden_layers", "num_experts", "hidden_size", "num_nextn_predict_layers",
                                 "attention_bias", "tie_word_embeddings", "text_config", "use_fp8"])  # fmt: skip
@pytest.mark.parametrize("value", [None, -1, 0, True, "x", [1], {"a": None}, 10**30, 1.5])
def test_no_rule_stumbles_over_a_value_that_is_none(key, value):
    config = f"config {json.dumps({key: value})}\n"
    experts = (
        "model.layers.{0..1}.mlp.experts.{0..1}.up_proj.weight BF16 [0, 4]\nmtp.x BF16 []\nlm_head.weight BF16 []\n"
    )

    assert checkpoint_of(config + BLOCK + QUANTIZED + experts + GATE_UP + DOWN).verify("headers").summary.crashed == []


def test_a_sound_model_stays_without_notes_of_these_rules():
    codes = {finding.code for finding in checkpoint_of(LLAMA).verify("headers").findings}

    assert codes == {"F8L504"}
