"""What a reading of whole checkpoints found: sound ones that were accused, and faults under another fault's name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from fp8load.checkpoint import Checkpoint
from fp8load.report import VerifyReport
from sketch import Llama, open_skeleton

CHANNEL = Llama(layers=2)
BLOCK = Llama(layers=2, scale=(16, 16))
STATIC = Llama(layers=2, scale="tensor", static=True)
DOWN = "model.layers.1.mlp.down_proj"
VISION = "visual.blocks.0.attn.qkv.weight BF16 [64, 64]\nvisual.merger.mlp.0.weight BF16 [64, 64]\n"


def loud(ckpt: Checkpoint | VerifyReport) -> dict[str, int]:
    """Codes of errors and warnings with their counts; no rule crashes."""
    report = ckpt.verify("headers") if isinstance(ckpt, Checkpoint) else ckpt
    assert report.summary.crashed == []
    return {finding.code: finding.count for finding in report.findings if finding.severity != "info"}


@dataclass(frozen=True)
class Files:
    """config.json and the lines of tensors, to be changed and opened."""

    config: dict[str, Any]
    tensors: str

    def open(self) -> Checkpoint:
        return open_skeleton(f"config {json.dumps(self.config)}\n{self.tensors}")

    def listed(self, key: str, *entries: str) -> Files:
        quantization = {**self.config["quantization_config"], key: list(entries)}
        return Files({**self.config, "quantization_config": quantization}, self.tensors)


def files_of(llama: Llama, **config: Any) -> Files:
    head, _, tensors = llama.skeleton().partition("\n")
    return Files({**json.loads(head.removeprefix("config ")), **config}, f"{tensors}\n")


def qwen_vl() -> Files:
    """CHANNEL as the language model of a Qwen2.5-VL, which has no bias in o_proj."""
    files = files_of(CHANNEL.but(bias=True), model_type="qwen2_5_vl")
    return Files(files.config, "".join(f"{line}\n" for line in files.tensors.splitlines() if "o_proj.bias" not in line))


def packed(kind: str) -> Files:
    """CHANNEL's layers in four bits: NVFP4 of compressed-tensors or of ModelOpt, or Quark's MXFP4."""
    fp4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
    spec = {"dtype": "fp4", "qscheme": "per_group", "group_size": 32, "scale_format": "e8m0"}
    said = {
        "ct": {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "ignore": ["lm_head"],
               "config_groups": {"group_0": {"targets": ["Linear"], "weights": {**fp4, "dynamic": False},
                                             "input_activations": {**fp4, "dynamic": "local"}}}},
        "modelopt": {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"], "config_groups": {
            "group_0": {"targets": ["Linear"], "weights": {**fp4, "dynamic": False}, "input_activations": fp4}}},
        "quark": {"quant_method": "quark", "exclude": ["lm_head"],
                  "global_quant_config": {"weight": spec, "input_tensors": {**spec, "is_dynamic": True}}},
    }[kind]  # fmt: skip
    weight, *scalars = {
        "ct": ("weight_packed", "weight_global_scale", "input_global_scale"),
        "modelopt": ("weight", "weight_scale_2", "input_scale"), "quark": ("weight",),
    }[kind]  # fmt: skip
    group, scale = (32, "U8") if kind == "quark" else (16, "F8_E4M3")
    lines = []
    for name, (rows, cols) in CHANNEL.linears().items():
        module = f"model.layers.{{0..1}}.{name}"
        lines += [
            f"{module}.{weight} U8 [{rows}, {cols // 2}]",
            f"{module}.weight_scale {scale} [{rows}, {cols // group}]",
        ]
        lines += [f"{module}.{scalar} F32 [1]" for scalar in scalars]
    plain = files_of(CHANNEL.but(quantized=False))
    rest = "".join(f"{line}\n" for line in plain.tensors.splitlines() if "_proj." not in line)
    return Files({**plain.config, "quantization_config": said}, "\n".join([*lines, rest]))


@pytest.mark.parametrize(("kind", "key"), [("ct", "ignore"), ("modelopt", "ignore"), ("quark", "exclude")])
def test_a_packed_module_that_the_list_covers_is_named_as_such(kind: str, key: str) -> None:
    files = packed(kind)

    assert loud(files.open()) == {}
    assert loud(files.listed(key, "lm_head", DOWN).open()) == {"F8L303": 1}


def test_what_quark_excludes_and_stores_with_its_own_scale_is_no_base() -> None:
    spec = {"dtype": "fp8_e4m3", "qscheme": "per_tensor", "is_dynamic": False}
    said = {"quant_method": "quark", "exclude": ["lm_head"],
            "global_quant_config": {"weight": spec, "input_tensors": spec}}  # fmt: skip
    files = files_of(STATIC.but(hidden=256, intermediate=256), quantization_config=said)

    assert loud(files.open()) == {}
    assert loud(files.listed("exclude", "lm_head", DOWN).open()) == {"F8L303": 1}


def test_quarks_list_has_regular_expressions_as_vllm_reads_them() -> None:
    files = packed("quark")
    plain = "".join(f"{line}\n" for line in files.tensors.splitlines() if "down_proj" not in line)
    plain += "model.layers.{0..1}.mlp.down_proj.weight BF16 [64, 96]\n"

    assert loud(Files(files.config, plain).listed("exclude", "lm_head", "re:.*down_proj").open()) == {}


@pytest.mark.parametrize(
    "entries",
    [
        ("re:visual.*",), ("visual.blocks.0.attn.qkv", "visual.merger.mlp.0"), ("re:model.visual.*",),
        ("model.visual.blocks.0.attn.qkv", "model.visual.merger.mlp.0"),
    ],
)  # fmt: skip
def test_a_list_may_have_the_names_of_the_loaded_model(entries: tuple[str, ...]) -> None:
    files = qwen_vl()
    seen = Files(files.config, files.tensors + VISION).listed("ignore", "lm_head", *entries)

    assert loud(seen.open()) == {}


def test_what_stands_inside_of_a_llava_has_other_names_in_memory() -> None:
    files = files_of(CHANNEL, model_type="mistral3", text_config=files_of(CHANNEL).config)
    inside = "".join(f"language_model.{line}\n" for line in files.tensors.splitlines()).replace(
        "language_model.{model.embed_tokens,lm_head}", "{language_model.model.embed_tokens,language_model.lm_head}"
    )
    for projection in ("q", "k", "v"):  # one layer was left out, by the names that it has in memory
        rows = 64 if projection == "q" else 32
        stored = f"language_model.model.layers.{{0..1}}.self_attn.{projection}_proj"
        kept = f"language_model.model.layers.0.self_attn.{projection}_proj"
        inside = inside.replace(f"{stored}.weight F8", f"{kept}.weight F8").replace(
            f"{stored}.weight_s", f"{kept}.weight_s"
        )
        inside += f"language_model.model.layers.1.self_attn.{projection}_proj.weight BF16 [{rows}, 64]\n"
    names = [f"model.language_model.layers.1.self_attn.{projection}_proj" for projection in ("q", "k", "v")]

    assert loud(Files(files.config, inside).listed("ignore", "lm_head", *names).open()) == {}


def test_a_list_of_the_loaded_model_covers_a_quantized_module_too() -> None:
    files = qwen_vl()
    name = DOWN.replace("model.", "model.language_model.", 1)

    assert loud(files.listed("ignore", "lm_head", name).open()) == {"F8L303": 1}


@pytest.mark.parametrize("architecture", ["Qwen3Model", "Qwen3ForCausalLM", None])
def test_a_decoder_may_be_saved_by_itself(architecture: str | None) -> None:
    said = {} if architecture is None else {"architectures": [architecture]}
    files = files_of(BLOCK, **said)
    names = files.tensors.replace("{model.embed_tokens,lm_head}", "model.embed_tokens").replace("model.", "")

    assert loud(Files(files.config, names).open()) == {}
    lost = "\n".join(line for line in names.splitlines() if not line.startswith("norm.weight"))
    assert loud(Files(files.config, lost).open()) == {"F8L109": 1}


def test_a_decoder_that_was_saved_by_itself_is_planned() -> None:
    files = files_of(CHANNEL)
    names = files.tensors.replace("{model.embed_tokens,lm_head}", "model.embed_tokens").replace("model.", "")

    plan = Files(files.config, names).open().plan(tp_rank=1, tp_size=2)

    assert plan.nbytes > 0
    assert Files(files.config, names).open().legal_tp() == files.open().legal_tp()


def test_a_classifier_stands_in_the_heads_place() -> None:
    files = files_of(CHANNEL, architectures=["LlamaForSequenceClassification"]).listed("ignore", "score")
    names = files.tensors.replace("{model.embed_tokens,lm_head}", "model.embed_tokens")

    assert loud(Files(files.config, names + "score.weight BF16 [2, 64]\n").open()) == {}


def test_a_model_that_answers_needs_its_head() -> None:
    files = files_of(CHANNEL, architectures=["LlamaForCausalLM"])
    names = files.tensors.replace("{model.embed_tokens,lm_head}", "model.embed_tokens")

    assert loud(Files(files.config, names).open()) == {"F8L109": 1}


ALIASES = {
    "block scales of compressed-tensors under DeepSeek's name": (
        CHANNEL, "weight_scale", "weight_scale_inv", True),
    "input scales of the first AutoFP8": (STATIC, "input_scale", "act_scale", True),
    "DeepSeek-V4's name": (BLOCK, "weight_scale_inv", "scale", True),
}  # fmt: skip


@pytest.mark.parametrize(("llama", "usual", "other", "exact"), ALIASES.values(), ids=ALIASES.keys())
def test_a_scale_under_a_name_of_another_dialect_is_not_lost(llama: Llama, usual: str, other: str, exact: bool) -> None:
    files = files_of(llama)
    ckpt = Files(files.config, files.tensors.replace(f".{usual} ", f".{other} ")).open()
    report = ckpt.verify("headers")

    assert loud(report) == {"F8L203": 14}
    (finding,) = [finding for finding in report.findings if finding.code == "F8L203" and finding.severity == "error"]
    assert finding.tensors[0].endswith(f".{other}")
    assert (finding.fix is not None) is exact


def test_a_global_scale_under_the_other_tools_name_is_its_reciprocal() -> None:
    files = packed("ct")
    report = (
        Files(files.config, files.tensors.replace("weight_global_scale", "weight_scale_2")).open().verify("headers")
    )

    assert loud(report) == {"F8L203": 14}
    assert "reciprocal" in next(finding.hint for finding in report.findings if finding.code == "F8L203")


def test_two_scales_of_two_dialects_are_two_scales() -> None:
    files = files_of(CHANNEL)

    assert loud(Files(files.config, files.tensors + f"{DOWN}.weight_scale_inv BF16 [64, 1]\n").open()) == {"F8L203": 1}


def test_a_configuration_that_cannot_be_read_is_not_missing() -> None:
    files = files_of(CHANNEL, quantization_config={"quant_method": "fp88"})

    assert "F8L101" not in loud(files.open())


def test_whispers_head_is_tied_and_may_be_listed() -> None:
    files = files_of(CHANNEL, model_type="whisper").listed("ignore", "lm_head", "proj_out")

    assert loud(files.open()) == {}


@pytest.mark.parametrize("entry", ["*router*", "re:.*router.*"])
def test_an_entry_of_a_recipe_may_cover_nothing(entry: str) -> None:
    assert loud(packed("quark").listed("exclude", "lm_head", entry).open()) == {}


def test_modelopt_may_quantize_the_cache_alone() -> None:
    files = files_of(CHANNEL.but(quantized=False))
    said = {"quantization": {"quant_algo": None, "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
    scales = "model.layers.{0..1}.self_attn.{k_proj.k,v_proj.v}_scale F32 []\n"
    ckpt = Files(files.config, f"file hf_quant_config.json {json.dumps(said)}\n{files.tensors}{scales}").open()

    assert loud(ckpt) == {}
    assert ckpt.format.kv is not None
    assert len(ckpt.lowered.kv) == 4


def test_weights_that_modelopt_did_not_quantize_and_that_are_codes_are_refused() -> None:
    files = files_of(STATIC, quantization_config={"quant_method": "modelopt", "quant_algo": None})

    assert set(loud(files.open())) == {"F8L105"}


def test_modelopts_methods_by_algorithm_need_no_producer() -> None:
    files = packed("modelopt")
    said = {**files.config["quantization_config"], "quant_method": "modelopt_fp4"}

    assert loud(Files({**files.config, "quantization_config": said}, files.tensors).open()) == {}


def test_frequencies_of_the_rotary_embedding_are_no_stranger() -> None:
    files = files_of(CHANNEL)

    assert loud(Files(files.config, files.tensors + "model.rotary_emb.inv_freq F32 [8]\n").open()) == {}


def test_a_packed_weight_that_is_gone_is_named_once_and_as_it_is_called() -> None:
    files = packed("ct")
    lines = files.tensors.replace("{0..1}.mlp.down_proj.weight_packed", "0.mlp.down_proj.weight_packed")
    report = Files(files.config, lines).open().verify("headers")

    assert loud(report) == {"F8L109": 1, "F8L202": 3}
    assert f"{DOWN}.weight" not in {tensor for finding in report.findings for tensor in finding.tensors}


def test_a_stack_of_experts_that_is_no_longer_quantized_is_not_missing() -> None:
    stack = "model.layers.0.mlp.experts.down_proj"
    said = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    lines = f"{stack} BF16 [2, 256, 128]\n{stack}_scale_inv F32 [2, 2, 1]\n"
    report = Files({"quantization_config": said}, lines).open().verify("headers")

    assert [f.message for f in report.findings if f.code == "F8L202"] == [
        "a scale stands beside a weight that is not quantized"
    ]


def test_stacked_blocks_that_the_list_covers_are_named_as_such() -> None:
    stack = "model.layers.0.mlp.experts.down_proj"
    said = {"quant_method": "mxfp4", "modules_to_not_convert": [stack]}
    numbers = {"model_type": "gpt_oss", "num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64,
               "num_local_experts": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}  # fmt: skip
    lines = f"{stack}_blocks U8 [2, 64, 2, 16]\n{stack}_scales U8 [2, 64, 2]\n{stack}_bias BF16 [2, 64]\n"
    report = Files({**numbers, "quantization_config": said}, lines).open().verify("headers")

    assert [f.tensors for f in report.findings if f.code == "F8L303"] == [[f"{stack}_blocks"]]
    assert "a tensor's shape is not what the config says" not in {f.message for f in report.findings}


def test_parameters_of_what_is_never_quantized_may_be_listed() -> None:
    names = ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight")

    assert loud(files_of(BLOCK).listed("modules_to_not_convert", "lm_head", *names).open()) == {}


def test_a_linear_layer_that_is_listed_by_its_parameter_is_not_covered() -> None:
    files = files_of(BLOCK)
    lines = [line for line in files.tensors.splitlines() if "down_proj" not in line]
    plain = "\n".join([*lines, "model.layers.{0..1}.mlp.down_proj.weight BF16 [64, 96]\n"])
    listed = Files(files.config, plain).listed("modules_to_not_convert", "lm_head", f"{DOWN}.weight")

    assert loud(listed.open())["F8L301"] == 1


def test_a_draft_model_is_not_the_model_that_it_guesses_for() -> None:
    config = {
        **CHANNEL.but(quantized=False).config(),
        "architectures": ["LlamaForCausalLMEagle3"],
        "num_hidden_layers": 1,
    }
    lines = "midlayer.self_attn.q_proj.weight BF16 [64, 128]\nfc.weight BF16 [64, 192]\nd2t I64 [20]\n"

    assert loud(Files(config, lines).open()) == {}


@pytest.mark.parametrize("size", ["64", None])
def test_a_size_that_is_missing_is_said_to_be(size: Any) -> None:
    report = files_of(CHANNEL, hidden_size=size).open().verify("headers")

    assert {finding.message for finding in report.findings if finding.severity == "error"} == {
        "config.json does not give the sizes of a tensor"
    }
