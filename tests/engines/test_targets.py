"""verify with and without a named engine: severities, the portability of a checkpoint, GPUs."""

from __future__ import annotations

import pytest

import fp8load
from engines.sketches import SKETCHES
from fp8load.engines.registry import profiles
from fp8load.errors import UsageError
from fp8load.rules.f8l209_expert_layout_unknown_to_target import CONFIG, SINGLE
from fp8load.rules.samples import BLOCK, LLAMA, QUANTIZED
from oracle.catalog import FOLDER, expected_findings
from sketch import open_skeleton

TARGETED = ("F8L208", "F8L209", "F8L305", "F8L307")
CLEAN = [path for path in sorted(FOLDER.iterdir()) if path.is_dir() and "must" not in expected_findings(path.name)]


def loud(report) -> set[str]:
    return {finding.code for finding in report.findings if finding.severity != "info"}


@pytest.mark.parametrize("name", ["heads in blocks", "experts with shared scales", "a list of parents",
                                  "a list of fused names", "transformers' names"])  # fmt: skip
def test_what_engines_read_in_different_ways_is_a_note_without_one_and_an_error_with_it(name):
    ckpt = open_skeleton(SKETCHES[name])
    notes = {finding.code for finding in ckpt.verify().findings if finding.severity == "info"} & {*TARGETED, "F8L203"}
    errors = set()
    for profile in profiles():
        errors |= loud(ckpt.verify(engine=profile.spec)) & {*TARGETED, "F8L203"}

    assert notes
    assert errors == notes


@pytest.mark.parametrize("path", CLEAN, ids=lambda path: path.name)
def test_what_is_loud_of_a_clean_checkpoint_names_the_engine(path):
    report = fp8load.open(path).verify("headers", engine=[profile.spec for profile in profiles()])
    titles = [str(profile) for profile in profiles()]
    allowed = expected_findings(path.name).get("may", ())

    for finding in report.findings:
        if finding.severity != "info" and finding.code not in allowed:
            assert finding.message.startswith(tuple(titles)), finding
            assert finding.hint
    assert report.summary.crashed == []


def test_the_portability_of_a_checkpoint_names_what_stops_an_engine():
    report = open_skeleton(SKETCHES["transformers' names"]).verify()
    by_engine = {engine.engine: engine for engine in report.portability}

    assert by_engine["transformers"].loads
    assert by_engine["transformers"].why == ""
    assert not by_engine["vllm"].loads
    assert by_engine["vllm"].codes == ["F8L203"]
    assert "weight_scale_inv" in by_engine["vllm"].why
    assert report.engines == []


def test_the_portability_is_that_of_the_engines_that_were_named():
    report = open_skeleton(LLAMA).verify(engine=["sglang@0.5.4", "vllm"], arch="sm90")

    assert [engine.title for engine in report.portability] == ["SGLang 0.5.4", "vLLM 0.33"]
    assert report.engines == ["sglang@0.5.4", "vllm@0.33"]
    assert report.gpu == "sm90"


def test_nobody_is_asked_about_a_checkpoint_without_quantized_layers():
    plain = LLAMA.replace(BLOCK, "").replace("F8_E4M3", "BF16   ")
    lines = [line for line in plain.splitlines() if "weight_scale_inv" not in line]

    assert open_skeleton("\n".join(lines)).verify(engine="vllm").portability == []


def test_a_fallback_does_not_keep_an_engine_from_loading():
    report = open_skeleton(BLOCK + QUANTIZED).verify(engine="vllm@0.33", arch="sm80")

    assert loud(report) == {"F8T001"}
    assert report.ok
    assert [engine.loads for engine in report.portability] == [True]


def test_a_gpu_that_is_older_than_the_oldest_is_an_error():
    report = open_skeleton(BLOCK + QUANTIZED).verify(engine="vllm@0.11", arch="sm75")

    assert not report.ok
    assert not report.portability[0].loads


@pytest.mark.parametrize("name", ["sm90", "SM_90", "sm90a"])
def test_a_gpu_is_found_however_it_is_spelled(name):
    assert open_skeleton(LLAMA).verify(arch=name).gpu == "sm90"


def test_an_unknown_gpu_is_a_usage_error_that_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean sm90") as caught:
        open_skeleton(LLAMA).verify(arch="sm91")

    assert caught.value.code == "USE021"


def test_experts_that_an_engine_refines_are_no_error_in_that_engine():
    half = CONFIG + BLOCK + SINGLE
    at_two = open_skeleton(half + REST).verify(tp=(2,))
    refined = open_skeleton(half + REST).verify(tp=(2,), engine="vllm@0.33")
    refused = open_skeleton(half + REST).verify(tp=(2,), engine=["vllm@0.33", "vllm@0.11"])

    assert "F8L504" in loud(at_two)
    assert "F8L504" not in loud(refined)
    assert "F8L504" in loud(refused)


REST = """\
model.layers.0.self_attn.{q,k,v,o}_proj.weight            F8_E4M3  [256, 256]
model.layers.0.self_attn.{q,k,v,o}_proj.weight_scale_inv  F32      [2, 2]
model.layers.0.self_attn.{q,k}_norm.weight                BF16     [128]
model.layers.0.mlp.gate.weight                            BF16     [2, 256]
model.layers.0.{input,post_attention}_layernorm.weight    BF16     [256]
model.norm.weight                                         BF16     [256]
{model.embed_tokens,lm_head}.weight                       BF16     [1024, 256]
"""


def said(skeleton: str, engine: str, code: str, **targets) -> list[str]:
    """The modules of what an engine is said to do under a rule, aside of what holds for every reader."""
    report = open_skeleton(skeleton).verify(engine=engine, **targets)
    title = report.portability[0].title
    found = [finding for finding in report.findings if finding.code == code and finding.message.startswith(title)]
    return [module.rpartition(".")[2] for finding in found for module in finding.modules]


WIDE = LLAMA.replace("512", "640").replace("[4, 2]", "[5, 2]").replace("[2, 4]", "[2, 5]")
FEW = LLAMA.replace('"num_key_value_heads": 2', '"num_key_value_heads": 1').replace("{q,k,v,o}", "{q,o}") + (
    "model.layers.0.self_attn.{k,v}_proj.weight            F8_E4M3  [128, 256]\n"
    "model.layers.0.self_attn.{k,v}_proj.weight_scale_inv  F32      [1, 2]\n"
)


def test_on_several_ranks_the_last_part_of_a_fused_layer_has_to_end_with_a_block_too():
    assert said(WIDE, "vllm@0.33", "F8L504", tp=(1,)) == []
    assert said(WIDE, "vllm@0.33", "F8L504", tp=(2,)) == ["gate_proj", "up_proj"]


def test_of_fewer_heads_than_ranks_each_rank_holds_a_whole_one():
    assert said(FEW, "sglang@0.5.23", "F8L504", tp=(2,)) == []


def test_a_key_that_has_to_be_there_may_be_null_and_a_list_that_is_null_is_none():
    key = "modelopt nested nvfp4"
    without, null = (
        open_skeleton(SKETCHES[name]).verify(engine="vllm@0.33")
        for name in (f"{key} without kv_cache_quant_algo", f"{key}, with its keys")
    )

    assert "F8L108" in loud(without)
    assert "F8L108" not in loud(null)


def test_notes_about_engines_in_general_give_way_to_the_engine_that_is_named():
    ckpt = open_skeleton(SKETCHES["KV in projections"])

    assert [finding.severity for finding in ckpt.verify().findings if finding.code == "F8L902"] == ["info"]
    assert [finding for finding in ckpt.verify(engine="vllm@0.33").findings if finding.code == "F8L902"] == []


def test_experts_are_experts_whatever_the_family_calls_what_holds_them():
    held = open_skeleton(SKETCHES["experts of Granite in one tensor"]).stored.held

    assert {(one.is_expert, one.layout) for one in held} == {(True, "stacked")}


def test_the_remedy_for_experts_is_the_layout_that_the_engine_reads():
    report = open_skeleton(SKETCHES["experts with shared scales"]).verify(engine="sglang@0.5.23")

    (finding,) = [finding for finding in report.findings if finding.code == "F8L209"]
    assert finding.hint == "store the experts as one tensor for each expert"


@pytest.mark.parametrize(("name", "engine", "message", "hint"), [
    ("quark without exclude", "vllm@0.33", "vLLM 0.33 stops without exclude", '"exclude": []'),
    ("quark without layer_type_quant_config", "sglang@0.5.23", "SGLang 0.5.23 stops without layer_type_quant_config",
     '"layer_type_quant_config": {}'),
    ("fbgemm without modules_to_not_convert", "vllm@0.11", "vLLM 0.11 stops without modules_to_not_convert",
     '"modules_to_not_convert": []'),
    ("fbgemm", "vllm@0.33", "vLLM 0.33 has given this method up, and stops", "--allow-deprecated-quantization"),
    ("modelopt nested nvfp4 without group_size", "sglang@0.5.4", "SGLang 0.5.4 stops without group_size",
     '"group_size": 16'),
    ("modelopt exclude_modules: full names", "sglang@0.5.23",
     "SGLang 0.5.23 does not read exclude_modules of the flat layout", "under the key ignore"),
])  # fmt: skip
def test_a_key_that_an_engine_has_no_default_for_is_named_with_what_to_write(name, engine, message, hint):
    report = open_skeleton(SKETCHES[name]).verify(engine=engine)

    ((said, remedy),) = [(found.message, found.hint) for found in report.findings if found.code == "F8L108"]
    assert said == message
    assert hint in remedy


@pytest.mark.parametrize(("name", "engine"), [
    ("quark without layer_quant_config", "vllm@0.33"), ("quark without exclude", "sglang@0.5.23"),
    ("fbgemm", "vllm@0.11"), ("modelopt nested nvfp4, with its keys", "sglang@0.5.4"),
    ("modelopt ignore: full names", "sglang@0.5.23"),
])  # fmt: skip
def test_a_key_that_another_engine_or_version_has_a_default_for_is_not_asked_of_it(name, engine):
    report = open_skeleton(SKETCHES[name]).verify(engine=engine)

    assert "F8L108" not in {found.code for found in report.findings}


@pytest.mark.parametrize(("name", "engine", "arch", "severity"), [
    ("mo-phi3-nvfp4", "sglang@0.5.4", "sm90", "error"), ("mo-phi3-nvfp4", "sglang@0.5.23", "sm90", "warning"),
    ("mo-phi3-nvfp4", "sglang@0.5.4", "sm100", None), ("mo-qwen2-fp8", "vllm@0.11", "sm80", "error"),
    ("mo-qwen2-fp8", "vllm@0.33", "sm80", "warning"), ("mo-qwen2-fp8", "vllm@0.33", "sm75", "error"),
    ("hf-llama256-fp8-block", "vllm@0.33", "sm89", "warning"), ("hf-llama256-fp8-block", "vllm@0.11", "sm89", None),
    ("ct-llama128-mxfp4", "vllm@0.33", "sm75", "error"), ("qk-llama128-mxfp4", "vllm@0.33", "sm75", "warning"),
    ("ct-qwen3-mxfp8", "vllm@0.33", "sm90", "warning"), ("mo-llama128-mxfp8", "sglang@0.5.23", "sm90", "error"),
    ("hf-gptoss-mxfp4", "vllm@0.33", "sm75", "error"), ("hf-llama128-fbgemm", "transformers@4.53", "sm89", "error"),
    ("ct-phi3-w4afp8", "vllm@0.11", "sm89", "error"),
])  # fmt: skip
def test_what_an_engine_does_on_a_gpu_is_what_its_source_says(name, engine, arch, severity):
    report = fp8load.open(FOLDER / name).verify("headers", engine=engine, arch=arch)
    title = report.portability[0].title

    found = {str(one.severity) for one in report.findings if one.code == "F8T001" and one.message.startswith(title)}
    assert found == (set() if severity is None else {severity})


@pytest.mark.parametrize("name", ["compressed mxfp4-a8", "compressed mxfp4-a8 experts", "quark mxfp4 weights",
                                  "quark mxfp8 weights"])  # fmt: skip
def test_a_kind_that_vllm_has_code_for_by_now_is_not_refused(name):
    report = open_skeleton(SKETCHES[name]).verify(engine=["vllm@0.33", "vllm@0.11"])

    assert [(one.title, one.loads) for one in report.portability] == [("vLLM 0.33", True), ("vLLM 0.11", False)]


@pytest.mark.parametrize("engine", ["vllm@0.33", "sglang@0.5.23"])
def test_tagged_exponents_are_no_bytes_to_an_engine_that_holds_them_as_bytes(engine):
    report = open_skeleton(SKETCHES["tagged exponents of mxfp8"]).verify(engine=engine)

    ((message, hint),) = [(found.message, found.hint) for found in report.findings if found.code == "F8L603"]
    assert "by value into bytes of exponents" in message
    assert hint == "store the exponents as U8; the bytes are the same"


def test_kernels_do_not_matter_to_a_converter():
    ckpt = fp8load.open(FOLDER / "ct-llamaodd-fp8-dynamic")

    assert "F8L505" in loud(ckpt.verify("headers", engine="sglang@0.5.23", arch="sm90"))
    assert "F8L505" not in loud(ckpt.verify("headers", engine="llama.cpp", arch="sm90"))


def test_sglang_0_5_4_looks_fused_layers_up_by_their_own_names_but_for_gate_and_up():
    by_parts, by_name, gate_and_up = (
        open_skeleton(SKETCHES[name]).verify(engine="sglang@0.5.4")
        for name in ("attention listed by parts", "attention listed by fused names", "the same under another key")
    )
    codes = {"F8L305", "F8L307"}

    ((finding, *_),) = [[found for found in by_parts.findings if found.code in codes]]
    assert finding.message.startswith("SGLang 0.5.4 does not take this layer to be ignored")
    assert {module.rpartition(".")[2] for module in finding.modules} == {"q_proj", "k_proj", "v_proj"}
    assert codes.isdisjoint(loud(by_name))
    assert codes.isdisjoint(loud(gate_and_up))


def test_sglang_0_5_4_quantizes_experts_whatever_the_list_says():
    ckpt = open_skeleton(SKETCHES["all experts listed"])

    assert "F8L307" in loud(ckpt.verify(engine="sglang@0.5.4"))
    assert "F8L307" not in loud(ckpt.verify(engine="vllm@0.11"))
