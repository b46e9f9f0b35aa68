"""What was read in the sources of engines line by line, one test for each fact: TensorRT-LLM, llama.cpp's converter,
and what a second look at SGLang found."""

from __future__ import annotations

import re

import pytest

import fp8load
from engines.sketches import SKETCHES, lists, lists_of_fp8
from fp8load.engines.ignore import reading_of
from fp8load.engines.registry import find_profile
from fp8load.rules.f8l305_ignore_needs_renaming_for_target import FULL
from fp8load.rules.samples import STATIC_KV, TENSOR_WISE
from oracle.catalog import FOLDER
from sketch import open_skeleton

TRT = "TensorRT-LLM 008e0af"


def said(report, title: str) -> list[tuple[str, str, str, str]]:
    """Code, severity, what an engine does, and the remedy."""
    found = [one for one in report.findings if one.message.startswith(title)]
    return [(one.code, str(one.severity), one.message.removeprefix(f"{title} "), one.hint) for one in found]


def asked(name: str, engine: str, **targets) -> list[tuple[str, str, str, str]]:
    """The same of a sketch, or of a checkpoint of the folder."""
    ckpt = open_skeleton(SKETCHES[name]) if name in SKETCHES else fp8load.open(FOLDER / name)
    title = str(find_profile(engine))
    return said(ckpt.verify("headers", engine=engine, **targets), title)


@pytest.mark.parametrize("name", ["hf-qwen3-fp8-pertensor", "Mistral's names without input scales"])
def test_one_scale_a_tensor_with_inputs_quantized_while_running_is_no_quantization_to_tensorrt_llm(name):
    ((code, severity, text, _),) = asked(name, "trtllm")

    assert (code, severity) == ("F8L108", "error")
    assert text == "takes this model to be unquantized, and reads its codes as numbers, without scales"


def test_static_scales_of_a_tensor_fill_every_block_of_tensorrt_llm():
    assert asked("static scales of a tensor", "trtllm") == []


def test_tensorrt_llm_stops_at_a_null_where_a_missing_key_has_a_default():
    ((code, _, text, hint),) = asked("static scales, and null for blocks", "trtllm")

    assert code == "F8L108"
    assert text == "stops at a weight_block_size that is null"
    assert hint == "remove weight_block_size from quantization_config"


@pytest.mark.parametrize("name", ["ct-llama128-nvfp4", "compressed nvfp4 experts"])
def test_tensorrt_llm_reads_nvfp4_of_compressed_tensors_in_one_family_only(name):
    ((code, _, text, _),) = asked(name, "trtllm")

    assert code == "F8L107"
    assert "(nvfp4) in laguna only" in text


def test_the_family_that_it_reads_it_in_is_not_refused():
    assert asked("Laguna's model.layers.0.self_attn.o_proj", "trtllm") == []


@pytest.mark.parametrize(("engine", "code", "then"), [
    ("trtllm", "F8L107", "all layers are built as one of them says, or none is quantized"),
    ("llama.cpp", "F8T003", "it stops with NotImplementedError"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["config groups of rows and of blocks", "ct-llama128-mixed-fp8-nvfp4"])
def test_more_than_one_config_group_is_refused_even_where_each_would_be_read(name, engine, code, then):
    ((found, severity, text, _),) = asked(name, engine)

    assert (found, severity) == (code, "error")
    assert text == f"does not tell config groups apart: {then}"


def test_experts_by_rows_and_dense_mxfp4_of_compressed_tensors_have_no_code_in_tensorrt_llm():
    (rows,), (dense,) = asked("ct-mixtral-fp8-dynamic", "trtllm"), asked("compressed mxfp4-a16", "trtllm")

    assert rows[2] == "has no code for experts of this kind (fp8-channel)"
    assert dense[2] == "has no code for linear layers of this kind (mxfp4-a16)"
    assert asked("compressed mxfp4-a16 experts", "trtllm") == []


def test_an_algorithm_that_tensorrt_llm_has_no_name_for_is_refused():
    ((code, _, text, _),) = asked("mo-llama128-mxfp4", "trtllm")

    assert (code, text) == ("F8L107", "does not know this quant_algo")
    assert asked("mo-llamaodd-fp8-pbwo", "trtllm") == [
        ("F8L504", "error", "gives the rows behind the cut the scale of another part, at tp=1",
         "use scales per channel for this layer"),
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "severity", "verb"), [
    ("trtllm", "warning", "copies"), ("llama.cpp", "error", "multiplies by"),
])  # fmt: skip
def test_bytes_of_exponents_are_numbers_to_both(name, severity, verb):
    ((code, found, text, hint),) = asked("exponents as bytes", name)

    assert (code, found) == ("F8L603" if name == "trtllm" else "F8T003", severity)
    assert text == f"{verb} these bytes as numbers: 120 where 2^-7 is meant"
    assert hint == "store the scales as F32 powers of two; it is exact"


def test_the_converter_has_no_name_for_tagged_exponents_and_tensorrt_llm_casts_them_by_value():
    ((code, severity, text, hint),) = asked("exponents of blocks, tagged", "llama.cpp")

    assert (code, severity) == ("F8T003", "error")
    assert text == 'stops at this dtype with KeyError "F8_E8M0"'
    assert hint == "store the scales as F32 powers of two; it is exact"
    assert asked("exponents of blocks, tagged", "trtllm") == []


@pytest.mark.parametrize("arch", ["sm90", "sm100", "sm103", "sm120", "sm121"])
def test_on_which_gpus_tensorrt_llm_rounds_scales_of_blocks(arch):
    report = fp8load.open(FOLDER / "hf-llama256-fp8-block").verify(engine="trtllm", arch=arch)
    codes = {code for code, *_ in said(report, TRT)}

    assert ("F8L707" in codes) is (arch in {"sm100", "sm103", "sm120"})


@pytest.mark.parametrize("name", ["in text_config", "modelopt nested mxfp8"])
def test_tensorrt_llm_looks_into_text_config_and_beside_config_json(name):
    assert asked(name, "trtllm") == []


@pytest.mark.parametrize("name", ["in text_config", "modelopt nested nvfp4, with its keys"])
def test_the_converter_does_so_too(name):
    assert asked(name, "llama.cpp") == []


@pytest.mark.parametrize("engine", ["trtllm", "llama.cpp"])
def test_where_no_name_of_a_kv_scale_is_read_the_remedy_is_no_other_name(engine):
    plain = STATIC_KV + TENSOR_WISE + "model.layers.{0..1}.self_attn.{k,v}_scale F32 []\n"
    report = open_skeleton(plain).verify(engine=engine)

    ((_, severity, _, hint),) = [one for one in said(report, str(find_profile(engine))) if "KV-cache" in one[2]]
    assert "rename" not in hint
    assert severity == ("warning" if engine == "trtllm" else "error")


@pytest.mark.parametrize(("entry", "taken"), [
    ("model.layers.0.mlp", True), ("model.layers.0.mlp.*", True), ("*.mlp.*", True), ("*mlp*", True),
    ("re:.*mlp.*", True), ("re:.*mlp", True), ("mlp", False), (".mlp.", False), ("re:mlp.*", False),
])  # fmt: skip
def test_an_entry_covers_whole_names_and_parents_in_tensorrt_llm(entry, taken):
    reading = reading_of(find_profile("trtllm"), open_skeleton(lists("modelopt", "exclude_modules", entry)).stored)
    parts = ("model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj")

    assert reading is not None
    assert reading.skips("model.layers.0.mlp.gate_up_proj", parts) is taken


def test_one_part_in_the_list_takes_the_whole_fused_layer_out_in_tensorrt_llm():
    half = lists_of_fp8(modules_to_not_convert=["model.layers.0.self_attn.q_proj"], ignored_layers=FULL)
    report = open_skeleton(half).verify(engine="trtllm")

    ((code, _, text, _),) = said(report, TRT)
    assert code == "F8L305"
    assert text == "takes this layer to be ignored: the codes are read as numbers, without their scale"
    (finding,) = [one for one in report.findings if one.code == code]
    assert {module.rpartition(".")[2] for module in finding.modules} == {"q_proj", "k_proj", "v_proj"}


@pytest.mark.parametrize("key", ["modules_to_not_convert", "ignore"])
def test_tensorrt_llm_adds_up_the_lists_under_all_keys(key):
    name = f"a quantized layer in a second list, {key}"

    assert [code for code, *_ in asked(name, "trtllm")] == ["F8L305"]
    assert "F8L305" not in {code for code, *_ in asked("a list of full names", "trtllm")}


def test_an_entry_that_is_no_expression_is_named_and_crashes_nothing():
    report = open_skeleton(lists("modelopt", "exclude_modules", "re:(", *FULL)).verify(engine="trtllm")

    ((_, _, text, hint),) = said(report, TRT)
    assert text == "stops at an entry of the ignore list that is no regular expression"
    assert "correct the expression" in hint
    assert report.summary.crashed == []


def test_sglang_takes_latent_attention_out_by_the_names_of_its_parts():
    assert "F8L305" not in {code for code, *_ in asked("modelopt latent attention listed by parts", "sglang@0.5.23")}


@pytest.mark.parametrize(("key", "codes"), [("ignore", []), ("exclude_modules", ["F8L108", "F8L305"])])
def test_layers_under_a_key_that_sglang_does_not_read_are_named(key, codes):
    whole = lists("modelopt", key, "model.layers.0.mlp.*")
    report = open_skeleton(whole).verify(engine="sglang@0.5.23")

    assert sorted(code for code, *_ in said(report, "SGLang 0.5.23")) == codes
    assert report.portability[0].loads is (not codes)


def test_the_converter_has_no_weight_for_a_scale_of_all_experts():
    ((code, severity, text, hint),) = asked("hf-qwen3moe-fp8-block32", "llama.cpp")

    assert (code, severity) == ("F8T003", "error")
    assert text.endswith("one tensor with the scales of all: it stops with a KeyError")
    assert hint == "store the experts as one tensor for each expert or one tensor for all experts"
    assert asked("experts apart", "llama.cpp") == []


def test_what_a_fused_layer_of_another_kind_does_is_not_said_of_tensorrt_llm():
    report = fp8load.open(FOLDER / "ct-dsv3-fp8-block").verify("headers", engine="trtllm")
    (cut,) = [one for one in report.findings if one.code == "F8L504" and one.message.startswith(TRT)]

    assert cut.modules == ["model.layers.1.mlp.shared_experts.gate_proj"]
    assert cut.hint == "use scales per channel for this layer"


def test_the_converter_unpacks_words_of_integers_and_not_bytes():
    ((_, _, text, _),) = asked("ct-phi3-w4afp8", "llama.cpp")

    assert asked("compressed int4-a8", "llama.cpp") == []
    assert text == "takes weights of this kind (int4-a8) as I32 only"


def test_who_converts_is_told_how_to_get_what_the_converter_reads():
    ((_, _, _, hint),) = asked("compressed nvfp4", "llama.cpp")

    assert hint == "`Checkpoint.plain_tensors` gives the unquantized checkpoint, which it reads"


@pytest.mark.parametrize("spec", ["llama.cpp@0024aa7", "llama.cpp@00bd27a", "trtllm@008e0af"])
def test_a_profile_of_a_commit_names_that_commit_in_what_it_was_read_from(spec):
    profile = find_profile(spec)

    assert spec.partition("@")[2] in profile.versions
    assert all(re.search(rf"\b{version}\b", profile.read_from) for version in profile.versions)
