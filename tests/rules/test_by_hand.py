"""Faults that were put into checkpoints by hand: what once was overlooked, accused, or said of the wrong tensor."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fp8load.checkpoint import Checkpoint
from fp8load.errors import Severity
from fp8load.report import Finding
from fp8load.rules.f8l306_mixed_precision_inside_a_fused_group import EXPERTS
from fp8load.rules.samples import BLOCK as BLOCK_CONFIG
from fp8load.scheme import Role
from mutations.copies import clean, numbers
from mutations.copies import packed as encoded
from oracle.dequantize import Stored
from rules.examples import checkpoint_of
from rules.repair_cases import CASES
from rules.test_second_reading import BLOCK, CHANNEL, VISION, Files, files_of, loud, packed, qwen_vl
from sketch import Llama

UP = "model.layers.1.mlp.up_proj"
MXFP8 = (
    'config {"quantization_config": {"quant_method": "compressed-tensors", "format": "mxfp8-quantized", '
    '"config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", '
    '"strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}}}}}\n'
    "a.up_proj.weight F8_E4M3 [64, 64]\na.up_proj.weight_scale U8 [64, 2]\n"
)
MXFP4 = MXFP8.replace("mxfp8-quantized", "mxfp4-pack-quantized").replace('"num_bits": 8', '"num_bits": 4').replace(
    "a.up_proj.weight F8_E4M3 [64, 64]", "a.up_proj.weight_packed U8 [64, 32]"
)  # fmt: skip
LEAST = 2.0**-127


def edited(llama: Llama, old: str, new: str) -> Files:
    """A model with one of its lines changed."""
    files = files_of(llama)
    changed = files.tensors.replace(old, new)
    assert changed != files.tensors
    return Files(files.config, changed)


def written_out(llama: Llama, name: str) -> Files:
    """A model in which a tensor has a line of its own, so that it can be edited."""
    files = files_of(llama)
    index = files.open().index.tensors
    lines = [f"{meta.name} {meta}" for meta in index.values()]
    assert any(line.startswith(f"{name} ") for line in lines)
    return Files(files.config, "\n".join(lines) + "\n")


def of(found: list[Finding], code: str) -> Finding:
    (finding,) = [finding for finding in found if finding.code == code and finding.severity != "info"]
    return finding


def test_one_scale_under_another_name_than_the_others_is_an_error_and_is_renamed() -> None:
    files = written_out(BLOCK, f"{UP}.weight_scale_inv")
    config = f"config {json.dumps(files.config)}\n"
    ckpt = checkpoint_of(config + files.tensors.replace(f"{UP}.weight_scale_inv", f"{UP}.weight_scale"))
    finding = of(ckpt.verify("headers").findings, "F8L203")

    assert (finding.severity, finding.count, finding.tensors) == ("error", 1, [f"{UP}.weight_scale"])
    assert finding.expected == f"{UP}.weight_scale_inv"
    assert ckpt.fix(["F8L203"]).num_fixed == 1
    assert f"renamed to {UP}.weight_scale_inv" in ckpt.fix().diff()


def test_scales_that_all_have_the_other_name_are_noted_only() -> None:
    assert loud(edited(BLOCK, "weight_scale_inv", "weight_scale").open()) == {}


def test_modules_that_are_quantized_in_two_ways_may_name_their_scales_in_two_ways() -> None:
    """ModelOpt's layers beside DeepSeek's blocks."""
    skeleton = (
        'config {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {'
        '"group_0": {"targets": ["re:.*up_proj"], "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}, '
        '"group_1": {"targets": ["re:.*down_proj"], "weights": {"num_bits": 8, "type": "float", "strategy": "block", '
        '"block_structure": [128, 128]}}}}}\n'
        "m.up_proj.weight F8_E4M3 [128, 128]\nm.up_proj.weight_scale F32 [128, 1]\n"
        "m.down_proj.weight F8_E4M3 [128, 128]\nm.down_proj.weight_scale F32 [1, 1]\n"
    )

    assert loud(checkpoint_of(skeleton).verify("headers")) == {}


def test_a_second_scale_is_not_compared_with_weights() -> None:
    files = files_of(BLOCK)
    twice = Files(files.config, files.tensors + f"{UP}.weight_scale F32 [6, 4]\n")

    assert loud(twice.open()) == {"F8L203": 1}


def test_a_scale_under_a_name_of_no_dialect_is_said_once_to_be_a_stranger() -> None:
    files = written_out(BLOCK, f"{UP}.weight_scale_inv")
    ckpt = Files(files.config, files.tensors.replace(f"{UP}.weight_scale_inv", f"{UP}.wscale")).open()

    assert loud(ckpt) == {"F8L109": 1, "F8L201": 1}
    assert "no part of" in of(ckpt.verify("headers").findings, "F8L109").message


@pytest.mark.parametrize(
    ("name", "dtype", "severity"),
    [("lm_head", "F32", "info"), ("lm_head", "F16", "error"), ("lm_head", "F64", "error"), ("norm", "F32", "error")],
)
def test_a_head_in_f32_is_noted_and_anything_else_alone_in_its_dtype_is_an_error(
    name: str, dtype: str, severity: str
) -> None:
    files = written_out(CHANNEL, "lm_head.weight")
    whole = "lm_head.weight" if name == "lm_head" else "model.norm.weight"
    ckpt = Files(files.config, files.tensors.replace(f"{whole} BF16", f"{whole} {dtype}")).open()
    (finding,) = [finding for finding in ckpt.verify("headers").findings if finding.code == "F8L109"]

    assert (finding.severity, finding.tensors) == (severity, [whole])


def test_packed_weights_without_a_scale_are_not_called_fp8() -> None:
    skeleton = MXFP4 + MXFP4.partition("\n")[2].replace("a.", "b.").replace("b.up_proj.weight_scale U8 [64, 2]\n", "")
    finding = of(checkpoint_of(skeleton).verify("headers").findings, "F8L201")

    assert finding.message == "a weight in F4 has no scale"
    assert "raw cast" not in finding.hint


@pytest.mark.parametrize("kind", [MXFP8, MXFP4])
def test_the_least_exponent_over_weights_is_an_error_where_weights_are_read(kind: str) -> None:
    ckpt = checkpoint_of(kind, {"a.up_proj.weight_scale": LEAST})
    found = of(ckpt.verify("weights").findings, "F8L702")

    assert found.severity is Severity.ERROR
    assert found.tensors == ["a.up_proj.weight_scale"]
    assert found.fix is None
    assert ckpt.fix(["F8L702"]).num_fixed == 0
    assert "F8L702" not in loud(ckpt.verify("scales"))


def test_the_least_exponent_over_zeros_is_what_tools_write() -> None:
    values = {"a.up_proj.weight_scale": LEAST, "a.up_proj.weight": 0.0}

    assert "F8L702" not in loud(checkpoint_of(MXFP8, values).verify("weights"))


LAYERS = (
    'config {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic", '
    '"weight_block_size": [128, 128]}}\n'
    "layers.{0..3}.mlp.{down,up}_proj.weight F8_E4M3 [256, 256]\n"
    "layers.{0..3}.mlp.{down,up}_proj.weight_scale_inv F32 [2, 2]\n"
)
SOUND = {f"layers.{n}.mlp.{part}_proj.weight_scale_inv": 2e-4 for n in range(4) for part in ("down", "up")}


@pytest.mark.parametrize(("scale", "cause"), [(5e3, "F8L703"), (4e30, "F8L705")])
def test_a_weight_of_another_size_is_explained_by_its_scale(scale: float, cause: str) -> None:
    values = {**SOUND, "layers.1.mlp.down_proj.weight_scale_inv": scale}
    found = checkpoint_of(LAYERS, values).verify("weights").findings

    assert of(found, cause).explained_by is None
    assert of(found, "F8L805").explained_by == cause


def test_of_a_pair_the_one_that_is_right_is_explained_by_the_other() -> None:
    pair = LAYERS.replace("{0..3}", "{0..1}")
    values = {name: size for name, size in SOUND.items() if "layers.0" in name or "layers.1" in name}
    found = checkpoint_of(pair, {**values, "layers.1.mlp.down_proj.weight_scale_inv": 1.0}).verify("weights").findings

    assert of(found, "F8L805").modules == ["layers.1.mlp.down_proj"]
    assert of(found, "F8L807").explained_by == "F8L805"


def test_a_configuration_that_is_no_json_explains_that_none_says_what_is_quantized() -> None:
    skeleton = "m.up_proj.weight F8_E4M3 [128, 128]\nm.up_proj.weight_scale F32 []\n"
    found = checkpoint_of(skeleton, files={"config.json": b'{"quantization_config": {}}}'}).verify("headers").findings

    assert of(found, "F8L110").explained_by is None
    assert of(found, "F8L101").explained_by == "F8L110"


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"layers.1.mlp.down_proj.weight_scale_inv": float("nan")}, "F8L701"),
        ({"layers.1.mlp.down_proj.weight": float("nan")}, "F8L801"),
    ],
)
def test_a_weight_that_is_not_finite_is_not_passed_over_in_a_comparison(values: dict[str, float], cause: str) -> None:
    ckpt = checkpoint_of(LAYERS, {**SOUND, **values})
    report = ckpt.verify("weights", against=checkpoint_of(LAYERS, SOUND))
    finding = of(report.findings, "F8L806")

    assert (finding.severity, finding.modules) == ("warning", ["layers.1.mlp.down_proj"])
    assert finding.explained_by == cause
    assert report.against is not None
    assert report.against.not_compared == 1
    assert [found.why for found in report.against.modules if found.why] == ["not finite"]


def test_a_document_of_one_line_is_shown_in_lines() -> None:
    skeleton = (
        'config {"quantization_config": {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": '
        "[128, 128]}}\nm.up_proj.weight F8_E4M3 [128, 128]\nm.up_proj.weight_scale_inv F32 [1, 1]\n"
    )
    diff = checkpoint_of(skeleton).fix().diff().splitlines()

    assert '-    "activation_scheme": "static",' in diff
    assert '+    "activation_scheme": "dynamic",' in diff


def test_a_shard_that_only_its_number_shows_to_be_missing_explains_what_is_lost() -> None:
    skeleton = "".join(
        f"{line} @ model-0000{1 + number % 3}-of-00003.safetensors\n"
        for number, line in enumerate(files_of(CHANNEL).tensors.splitlines())
    )
    config = f"config {json.dumps(files_of(CHANNEL).config)}\n"
    gone = {"model-00002-of-00003.safetensors": None, "model.safetensors.index.json": None}
    found = checkpoint_of(config + skeleton, files=gone).verify("headers").findings

    assert of(found, "F8L003").file == "model-00002-of-00003.safetensors"
    assert {finding.explained_by for finding in found if finding.code == "F8L109"} == {"F8L003"}
    assert [finding.code for finding in found if finding.severity == "error" and not finding.explained_by] == ["F8L003"]


@pytest.mark.parametrize(
    "names",
    [
        ["model-00000-of-00002", "model-00001-of-00002"],  # counted from zero
        ["model-00001-of-00001"],
        ["model-00002-of-00009"],  # asked for alone
        ["model-1-of-2", "model-2-of-2"],
        ["model-00001-of-999999", "model-00002-of-999999"],
    ],
)
def test_numbers_of_files_that_are_whole_or_asked_for_alone_are_no_fault(names: list[str]) -> None:
    skeleton = "".join(f"m.norm{at}.weight BF16 [8] @ {name}.safetensors\n" for at, name in enumerate(names))
    ckpt = checkpoint_of(skeleton, files={"model.safetensors.index.json": None} if len(names) > 1 else {})

    assert loud(ckpt.verify("headers")) == {}


def test_a_key_scale_that_was_never_written_is_found_in_a_model_of_two_layers() -> None:
    skeleton = (
        'config {"quantization_config": {"quant_method": "fp8", "activation_scheme": "static", "kv_cache_scheme": '
        '"static"}}\nmodel.layers.{0..1}.self_attn.{q,k,v}_proj.weight F8_E4M3 [64, 64]\n'
        "model.layers.{0..1}.self_attn.{q,k,v}_proj.{weight,input}_scale F32 []\n"
        "model.layers.{0..1}.self_attn.{k,v}_scale F32 []\n"
    )
    values = {f"model.layers.{n}.self_attn.{role}_scale": 0.02 for n in (0, 1) for role in "kv"}
    values |= {f"model.layers.{n}.self_attn.{p}_proj.weight_scale": 2e-4 for n in (0, 1) for p in "qkv"}
    name = "model.layers.1.self_attn.k_scale"

    assert "F8L705" not in loud(checkpoint_of(skeleton, values).verify("scales"))
    assert of(checkpoint_of(skeleton, {**values, name: 1e9}).verify("scales").findings, "F8L705").tensors == [name]


def test_a_slip_in_the_name_of_the_head_is_told_by_its_name() -> None:
    found = files_of(CHANNEL).listed("ignore", "lmhead").open().verify("headers").findings

    assert of(found, "F8L301").got == "no such module; lm_head is stored in 16 bits"


def test_a_lost_bias_explains_that_the_members_of_its_layer_differ() -> None:
    name = "model.layers.1.self_attn.q_proj.bias"
    files = written_out(Llama(layers=2, bias=True), name)
    lines = [line for line in files.tensors.splitlines(keepends=True) if not line.startswith(f"{name} ")]
    found = Files(files.config, "".join(lines)).open().verify("headers").findings

    assert of(found, "F8L306").explained_by == "F8L109"


def test_packed_weights_that_no_configuration_tells_are_explained_by_it() -> None:
    files = packed("ct")
    config = {**files.config, "quantization_config": {**files.config["quantization_config"], "quant_method": "fp9"}}
    found = Files(config, files.tensors).open().verify("headers").findings

    assert {finding.explained_by for finding in found if finding.code == "F8L109"} == {"F8L110"}


def test_where_every_scale_is_inverted_those_of_large_weights_are_seen_too() -> None:
    """448 / 0.6 is 750, which alone might be a scale: beside others of 5,000 it is none."""
    copy = clean("afp8-llama128-static-kv")
    names = [name for name in copy.of_role(Role.WEIGHT_SCALE) if copy.stored[name].shape in ((), (1,))]
    turned = {name: encoded(copy.stored[name].dtype, 1 / numbers(copy.stored[name])) for name in names}
    ckpt = copy.having(**turned).open()
    found = ckpt.verify("weights").findings

    assert len(names) == 14
    assert sorted(of(found, "F8L703").tensors) == sorted(names)
    assert {finding.explained_by for finding in found if finding.code in ("F8L805", "F8L807")} <= {"F8L703"}
    assert ckpt.fix(["F8L703"]).num_fixed == 14


def test_one_inverted_scale_does_not_turn_those_that_are_above_one() -> None:
    values = {**SOUND, "layers.1.mlp.down_proj.weight_scale_inv": 5e3, "layers.2.mlp.up_proj.weight_scale_inv": 2.0}
    found = checkpoint_of(LAYERS, values).verify("scales").findings

    assert of(found, "F8L703").tensors == ["layers.1.mlp.down_proj.weight_scale_inv"]


def test_one_of_three_in_sixteen_bits_is_not_listed_while_the_others_stay_quantized() -> None:
    """The entry alone would leave a layer that no engine can fuse: nothing is offered, and the reason said."""
    case = CASES["F8L306"]
    ckpt = checkpoint_of(case.skeleton, case.values)
    fixes = ckpt.fix(["F8L302"])

    finding = of(ckpt.verify("headers").findings, "F8L302")
    assert (finding.fix, "quantize it as the others are" in finding.hint) == (None, True)
    assert (fixes.num_fixed, fixes.diff()) == (0, "")
    assert [(code, "F8L306" in why) for code, why, _ in fixes.failed] == [("F8L302", True)]


@pytest.mark.parametrize("named", [("F8L302", "F8L306"), ("F8L306", "F8L302")])
def test_one_of_three_in_sixteen_bits_is_listed_where_the_others_are_dequantized(named: tuple[str, str]) -> None:
    """By the repair of F8L306: the other fault is mended with it, and not one that cannot be."""
    case = CASES["F8L306"]
    fixes = checkpoint_of(case.skeleton, case.values).fix(named)

    assert [(code, count) for code, _, count in fixes.counts if code == "F8L302"] == [("F8L302", 1)]
    assert fixes.failed == ()
    assert fixes.diff() == checkpoint_of(case.skeleton, case.values).fix(["F8L306"]).diff()


def test_an_expert_in_sixteen_bits_is_not_listed_while_the_others_stay_quantized() -> None:
    listed = BLOCK_CONFIG.replace('"quant_method"', '"modules_to_not_convert": ["lm_head"], "quant_method"')
    plain = "m.layers.0.mlp.experts.2.{gate,up}_proj.weight  BF16  [256, 256]\n"
    found = checkpoint_of(listed + EXPERTS + plain).verify("headers").findings

    assert of(found, "F8L306").count == 2
    assert of(found, "F8L302").fix is None


KV = "model.layers.{}.self_attn.{}_scale"


def test_of_two_layers_the_one_without_a_cache_scale_is_named_alone() -> None:
    copy = clean("afp8-llama128-static-kv").having(**{KV.format(0, "k"): None})
    finding = of(copy.open().verify("headers").findings, "F8L901")

    assert (finding.message, finding.tensors) == ("a KV-cache scale is missing", [KV.format(0, "k")])


def test_a_cache_scale_that_may_be_a_leftover_is_told_from_those_that_are_missing() -> None:
    gone = dict.fromkeys((KV.format(0, "k"), KV.format(0, "v"), KV.format(1, "v")))
    found = clean("afp8-llama128-static-kv").having(**gone).open().verify("headers").findings

    assert {(f.message, *f.tensors, f.got) for f in found if f.code == "F8L901"} == {
        ("a KV-cache scale is missing", *gone, "none"),
        ("a KV-cache scale that other layers do not have: a leftover, or theirs are lost", KV.format(1, "k"),
         "this layer has one, and 1 of 2 have none"),
    }  # fmt: skip


def test_a_module_that_only_one_of_modelopts_two_lists_has_is_noted() -> None:
    copy = clean("mo-qwen3moe-auto")
    said = json.loads(json.dumps(copy.quantization))
    said["config_groups"]["group_1"]["targets"].remove("model.layers.1.mlp.experts")
    said["config_groups"]["group_0"]["targets"].remove("model.layers.0.self_attn.o_proj")

    def noted(ckpt: Checkpoint) -> list[list[str]]:
        return [f.modules for f in ckpt.verify("headers").findings if f.code == "F8L105" and f.severity == "info"]

    assert noted(copy.open()) == []
    assert noted(copy.config(quantization_config=said).open()) == [
        ["model.layers.0.self_attn.o_proj", "model.layers.1.mlp.experts"]
    ]


def test_an_embedding_of_positions_is_no_linear_layer() -> None:
    files = qwen_vl()
    seen = Files(files.config, files.tensors + VISION + "visual.pos_embed.weight BF16 [256, 64]\n")

    assert loud(seen.listed("ignore", "lm_head", "re:visual.blocks.*", "re:visual.merger.*").open()) == {}


@pytest.mark.parametrize(
    ("llama", "key", "accusing"),
    [(BLOCK, "modules_to_not_convert", {"vllm@0.11"}), (CHANNEL, "ignore", set())],
)
def test_parts_that_are_listed_under_the_fused_name_are_an_engines_matter(
    llama: Llama, key: str, accusing: set[str]
) -> None:
    files = files_of(llama)
    kept = [line for line in files.tensors.splitlines() if not any(f".{part}_proj." in line for part in "qkv")]
    kept += [
        f"model.layers.{{0..1}}.self_attn.{part}_proj.weight BF16 [{rows}, 64]"
        for part, rows in (("q", 64), ("k", 32), ("v", 32))
    ]
    plain = Files(files.config, "\n".join(kept) + "\n")
    fused = plain.listed(key, "lm_head", *(f"model.layers.{at}.self_attn.qkv_proj" for at in (0, 1))).open()

    assert loud(plain.listed(key, "lm_head").open()) == {"F8L302": 6}
    assert loud(fused) == {}
    assert [f.count for f in fused.verify("headers").findings if f.code == "F8L302"] == [6]
    assert fused.fix().num_fixed == 0
    assert fused.fix(["F8L302"]).num_fixed == 6
    for engine in ("vllm@0.11", "vllm@0.33"):
        found = loud(fused.verify("headers", engine=engine))
        assert found == ({"F8L307": 6} if engine in accusing else {})


@pytest.mark.parametrize("name", ["quanto-llama128-fp8wo", "ct-llama128-nvfp4", "ao-llamaodd-fp8wo"])
def test_whatever_stands_in_a_weights_place_is_explained_by_an_unknown_method(name: str) -> None:
    copy = clean(name)
    said = {**(copy.quantization or {}), "quant_method": "fp9"}
    found = copy.config(quantization_config=said).open().verify("headers").findings

    assert {f.code for f in found if f.severity == "error" and f.explained_by is None} == {"F8L110"}


@pytest.mark.parametrize("gone", ["norm.weight", "mlp.up_proj.weight"])
def test_a_lost_tensor_is_not_explained_by_an_unknown_method(gone: str) -> None:
    copy = clean("afp8-llama128-static-kv")
    said = {**(copy.quantization or {}), "quant_method": "fp9"}
    lost = next(name for name in copy.stored if name.endswith(gone))
    found = copy.config(quantization_config=said).having(**{lost: None}).open().verify("headers").findings

    assert lost in of([f for f in found if f.explained_by is None], "F8L109").tensors


def test_gptqs_tensors_are_explained_by_the_method_that_is_not_known() -> None:
    files = files_of(CHANNEL.but(quantized=False), quantization_config={"quant_method": "gptq"})
    lines = [line for line in files.tensors.splitlines() if "down_proj" not in line]
    module = "model.layers.{0..1}.mlp.down_proj"
    lines += [f"{module}.qweight I32 [12, 64]", f"{module}.qzeros I32 [1, 8]", f"{module}.scales F16 [1, 64]"]
    lines += [f"{module}.g_idx I32 [96]"]
    found = Files(files.config, "\n".join(lines) + "\n").open().verify("headers").findings

    assert {f.code for f in found if f.severity == "error" and f.explained_by is None} == {"F8L110"}


def beside(lines: str) -> Checkpoint:
    """A model of two files with an index, and a third that the index does not name."""
    index = {name: "model-00001-of-00001.safetensors" for name in files_of(CHANNEL).open().index.tensors}
    document = json.dumps({"weight_map": index}).encode()
    files = files_of(CHANNEL)
    inside = "".join(f"{line} @ model-00001-of-00001.safetensors\n" for line in files.tensors.splitlines())
    outside = "".join(f"{line} @ model.safetensors\n" for line in lines.splitlines())
    config = f"config {json.dumps(files.config)}\n"
    return checkpoint_of(config + inside + outside, files={"model.safetensors.index.json": document})


def test_a_copy_in_four_bits_under_another_prefix_is_a_second_copy() -> None:
    lines = "".join(
        f"language_model.model.layers.{{0..1}}.{name}.weight_packed I32 [{rows}, {cols // 8}]\n"
        f"language_model.model.layers.{{0..1}}.{name}.weight_scale BF16 [{rows}, {cols // 32}]\n"
        for name, (rows, cols) in CHANNEL.linears().items()
    )

    assert loud(beside(lines)) == {"F8L006": 1}


@pytest.mark.parametrize(
    "lines",
    [
        "base_model.model.model.layers.{0..1}.self_attn.{q,k,v,o}_proj.lora_{A,B}.weight BF16 [8, 64]\n",
        "model.layers.{0..1}.mlp.{gate,up,down}_proj.input_scale F32 []\n"
        "model.layers.{0..1}.self_attn.{q,k,v,o}_proj.input_scale F32 []\n",
    ],
    ids=["adapter", "scales"],
)
def test_what_is_no_copy_is_named_by_its_tensors(lines: str) -> None:
    assert set(loud(beside(lines))) == {"F8L005"}


def test_experts_of_one_layer_that_lie_the_other_way_round_are_noted() -> None:
    copy = clean("mo-gptoss-fp8")
    name = "model.layers.1.mlp.experts.gate_up_proj"
    stored = copy.stored[name]
    codes = np.frombuffer(stored.data, np.uint8).reshape(stored.shape).transpose(0, 2, 1)
    turned = Stored(stored.dtype, codes.shape, codes.tobytes())

    def noted(ckpt: Checkpoint) -> list[Finding]:
        return [finding for finding in ckpt.verify("headers").findings if finding.code == "F8L404"]

    assert noted(copy.open()) == []
    ckpt = copy.having(**{name: turned}).open()
    (finding,) = noted(ckpt)
    assert (finding.severity, finding.tensors, finding.fix) == ("info", [name], None)
    assert finding.expected == f"{list(stored.shape)}, as in 1 of 2 layers"
    assert ckpt.fix(["F8L404"]).num_fixed == 0
