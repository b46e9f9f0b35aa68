"""Families are what publishers wrote: excerpts of their headers hold nothing that the family does not have."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import pytest

from archs.remade import deepseek_v4, predicting
from archs.remade_names import dots3_note
from archs.tiny import Tiny
from fp8load.archs.base import Linear
from fp8load.checkpoint import Checkpoint
from sketch import open_skeleton

FOLDER = Path(__file__).parents[2] / "fixtures" / "census"
ABSENT = "a tensor that the configuration calls for is not there"


def opened(folder: Path) -> Checkpoint:
    """The excerpt of a model's headers, with its configuration."""
    return open_skeleton(f"config {(folder / 'config.json').read_text()}\n{(folder / 'headers.skel').read_text()}")


def model_types() -> dict[str, Path]:
    """Models with an excerpt whose family is known."""
    folders = (path.parent for path in sorted(FOLDER.glob("*/headers.skel")))
    return {folder.name: folder for folder in folders if opened(folder).arch is not None}


@pytest.mark.parametrize("folder", model_types().values(), ids=model_types())
def test_every_tensor_of_an_excerpt_is_one_of_the_family_and_has_its_shape(folder: Path) -> None:
    problems = [problem for problem in opened(folder).problems if problem.code == "F8L109"]

    assert [str(problem) for problem in problems if problem.message != ABSENT] == []


def test_the_excerpts_are_of_these_families() -> None:
    found = {json.loads((folder / "config.json").read_text())["model_type"] for folder in model_types().values()}

    assert found >= {"deepseek_v32", "deepseek_v4", "deepseek_v41", "glm_moe_dsa", "kimi_k2", "qwen3", "qwen3_moe"}


def test_the_indexer_is_whole_on_every_rank() -> None:
    model = opened(FOLDER / "deepseek-ai--DeepSeek-V3.2").model
    assert model is not None
    shards = {entry.shard for _, entry in model.entries() if isinstance(entry, Linear) and "indexer" in entry.target}

    assert shards == {"replicated"}


def test_a_layer_for_multi_token_prediction_may_repeat_the_embedding_and_the_head() -> None:
    tiny = predicting("deepseek_v3")
    repeated = [f"model.layers.2.{name}.weight" for name in ("embed_tokens", "shared_head.head")]
    for name in repeated:
        tiny = tiny.having(name, (51, 48))

    checkpoint = tiny.open()

    assert checkpoint.problems == ()
    assert set(repeated) <= set(checkpoint.plan(tp_rank=1, tp_size=2).params)


def test_a_layer_for_multi_token_prediction_may_have_an_embedding_beside_the_layers() -> None:
    name = "model.mtp.embed_tokens.weight"

    checkpoint = dots3_note().having(name, (51, 48)).open()

    assert checkpoint.problems == ()
    assert name in checkpoint.plan(tp_rank=1, tp_size=2).params


def test_a_layer_for_multi_token_prediction_may_be_left_out() -> None:
    tiny = predicting("glm4_moe")
    for name in [name for name in tiny.tensors if name.startswith("model.layers.2.")]:
        tiny = tiny.without(name)

    assert tiny.open().problems == ()


def all_layers(folder: Path) -> Checkpoint:
    """A DeepSeek-V4 with all of its layers and experts: those of the excerpt, repeated as its configuration says."""
    config = json.loads((folder / "config.json").read_text())
    ratios, last = config["compress_ratios"], config["n_routed_experts"] - 1
    numbers = range(config["num_hidden_layers"])
    like = {
        "{layers.2,layers.3,mtp.0}.": ["mtp.0", *(f"layers.{n}" for n in numbers)],
        "{layers.3,mtp.0}.": ["mtp.0", *(f"layers.{n}" for n in numbers if n >= config["num_hash_layers"])],
        "layers.{2,3}.": [f"layers.{n}" for n in numbers if ratios[n]],
        "layers.2.ffn.": [f"layers.{n}" for n in numbers if n < config["num_hash_layers"]],
        "layers.2.attn.": [f"layers.{n}" for n in numbers if ratios[n] == 4],
        "layers.3.attn.": [f"layers.{n}" for n in numbers if ratios[n] == 128],
    }
    lines = []
    for line in (folder / "headers.skel").read_text().replace(f"{{0,{last}}}", f"{{0..{last}}}").splitlines():
        start = next((start for start in like if line.startswith(start)), "")
        within = start.partition("layers.2.")[2] or start.partition("layers.3.")[2]
        rest = line[len(start) :] if "{" in start else within + line[len(start) :]
        lines.append(f"{{{','.join(like[start])}}}.{rest}" if start else line)
    return open_skeleton("\n".join([f"config {json.dumps(config)}", *lines]))


def test_all_of_v4_flash_is_planned_and_has_as_many_tensors_as_its_index() -> None:
    checkpoint = all_layers(FOLDER / "deepseek-ai--DeepSeek-V4-Flash")

    assert len(checkpoint.tensors) == 69_187
    assert checkpoint.problems == ()
    assert checkpoint.legal_tp() == [1, 2, 4, 8]
    assert checkpoint.plan(tp_rank=7, tp_size=8).params["layers.2.attn.wo_a.weight"].shape == (1024, 4096)


def test_a_draft_model_in_the_place_of_v4s_prediction_layer_is_kept_as_stored() -> None:
    v4 = deepseek_v4()
    tensors = {name: it for name, it in v4.tensors.items() if not name.startswith("mtp.")}
    draft = "mtp.0.main_proj.weight"
    tiny = Tiny({**v4.config, "dspark_block_size": 5}, {**tensors, draft: ("BF16", (48, 144))})

    checkpoint = tiny.open()

    assert checkpoint.problems == ()
    assert checkpoint.plan(tp_rank=1, tp_size=2).params[draft].shape == (48, 144)


def test_the_parts_of_qwen3_6s_linear_attention_are_those_of_its_headers() -> None:
    """Two tensors of nvidia/Qwen3.6-27B-NVFP4, as a listing of its headers prints them."""
    text = {"hidden_size": 5120, "head_dim": 256, "intermediate_size": 17408, "num_hidden_layers": 64,
            "num_attention_heads": 24, "num_key_value_heads": 4, "vocab_size": 248320, "full_attention_interval": 4,
            "linear_num_key_heads": 16, "linear_num_value_heads": 48, "linear_key_head_dim": 128,
            "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4}  # fmt: skip
    config = {"model_type": "qwen3_5", "text_config": text}
    at = "model.language_model.layers.0.linear_attn."
    lines = [f"{at}in_proj_qkv.weight F8_E4M3 [10240, 5120]", f"{at}A_log BF16 [48]"]

    checkpoint = open_skeleton("\n".join([f"config {json.dumps(config)}", *lines]))

    wrong = [str(problem) for problem in checkpoint.problems if problem.code == "F8L109" and problem.message != ABSENT]
    assert wrong == []


def test_hy4_preview_has_as_many_tensors_as_its_index() -> None:
    """Two tensors of its headers; every other one is asked for, those of its layer for multi-token prediction too."""
    config = {"model_type": "hy_v4", "hidden_size": 6144, "intermediate_size": 18432, "num_hidden_layers": 78,
              "num_attention_heads": 64, "vocab_size": 120832, "n_routed_experts": 256, "moe_intermediate_size": 2048,
              "q_lora_rank": 2048, "kv_lora_rank": 512, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64,
              "v_head_dim": 256, "index_n_heads": 32, "index_head_dim": 128}  # fmt: skip
    lines = ["model.layers.0.hc_attn_layer.hc_pre.hc_fn F32 [8, 24576]",
             "model.mtp_layers.0.self_attn.linear_gate.weight BF16 [16384, 6144]"]  # fmt: skip

    problems = open_skeleton("\n".join([f"config {json.dumps(config)}", *lines])).problems

    assert {problem.message for problem in problems} == {ABSENT}
    assert len(lines) + len(problems) == 2_006


def test_a_layer_of_kimi_k3_is_that_of_its_headers() -> None:
    """Layer 1 but for its experts, of which a listing of its headers has the packed forms of one."""
    linear = {"num_heads": 96, "head_dim": 128, "short_conv_kernel_size": 4, "use_full_rank_gate": True,
              "kda_layers": [1, 2, 3], "full_attn_layers": [4]}  # fmt: skip
    text = {"hidden_size": 7168, "num_hidden_layers": 4, "num_attention_heads": 96, "vocab_size": 163840,
            "num_experts": 896, "num_shared_experts": 2, "moe_intermediate_size": 3072, "first_k_dense_replace": 1,
            "routed_expert_hidden_size": 3584, "latent_moe_use_norm": True, "mla_use_output_gate": True,
            "attn_res_block_size": 12, "linear_attn_config": linear}  # fmt: skip
    at = "language_model.model.layers.1."
    lines = [f"{at}{{self_attention,mlp}}_res_norm.weight BF16 [7168]",
             f"{at}{{self_attention,mlp}}_res_proj.weight BF16 [1, 7168]",
             f"{at}{{input,post_attention}}_layernorm.weight BF16 [7168]",
             f"{at}self_attn.{{q,k,v,g}}_proj.weight BF16 [12288, 7168]",
             f"{at}self_attn.{{q,k,v}}_conv1d.weight F32 [12288, 1, 4]",
             f"{at}self_attn.f_a_proj.weight BF16 [128, 7168]", f"{at}self_attn.f_b_proj.weight BF16 [12288, 128]",
             f"{at}self_attn.{{A_log,o_norm.weight}} F32 [128]", f"{at}self_attn.dt_bias F32 [12288]",
             f"{at}self_attn.b_proj.weight BF16 [96, 7168]", f"{at}self_attn.o_proj.weight BF16 [7168, 12288]",
             f"{at}block_sparse_moe.gate.weight BF16 [896, 7168]",
             f"{at}block_sparse_moe.gate.e_score_correction_bias F32 [896]",
             f"{at}block_sparse_moe.routed_expert_down_proj.weight BF16 [3584, 7168]",
             f"{at}block_sparse_moe.routed_expert_up_proj.weight BF16 [7168, 3584]",
             f"{at}block_sparse_moe.routed_expert_norm.weight BF16 [3584]",
             f"{at}block_sparse_moe.shared_experts.{{gate,up}}_proj.weight BF16 [6144, 7168]",
             f"{at}block_sparse_moe.shared_experts.down_proj.weight BF16 [7168, 6144]",
             f"{at}block_sparse_moe.experts.0.{{w1,w3}}.weight BF16 [3072, 3584]",
             f"{at}block_sparse_moe.experts.0.w2.weight BF16 [3584, 3072]"]  # fmt: skip
    config = {"model_type": "kimi_k3", "text_config": text}

    checkpoint = open_skeleton("\n".join([f"config {json.dumps(config)}", *lines]))

    here = [problem for problem in checkpoint.problems if (problem.tensor or "").startswith(at)]
    assert {problem.message for problem in here} == {ABSENT}
    assert len(here) == 895 * 3
    assert not [problem for problem in checkpoint.problems if problem.tensor in checkpoint.tensors]


def test_a_parameter_of_the_root_that_some_keep_in_f32_may_be_the_only_one() -> None:
    v4 = deepseek_v4()

    tiny = Tiny(v4.config, {**v4.tensors, "hc_head_scale": ("F32", (1,))})

    assert tiny.open().problems == ()


SUPER = (
    "2.625 5.25 5.25 5.25 5.25 5.25 -2.625 -2.625 5.25 5.25 5.25 -3.28125" + " 5.25" * 30
    + " -1.3125 -2.625 -2.625 -1.3125 -5.25 -1.3125 -2.625 -1.3125 -1.3125 -1.3125 5.25 -1.3125 -1.0 -1.0 -1.3125 -1.0"
    + " -1.0 -1.0 -1.3125 -1.3125 -0.5 -0.5 -1.0 -1.0 -0.5 -0.5 -1.0 -0.5 -0.5" + " 5.25" * 9
)  # fmt: skip
"""The MLPs of Llama-3_3-Nemotron-Super-49B-v1 as its config.json gives them; "-": this layer has no attention."""


GONE = {"no_op": True, "n_heads_in_group": None}
TOTALS = {
    49_867_145_216: {
        "model_type": "nemotron-nas", "hidden_size": 8192, "intermediate_size": None, "num_attention_heads": 64,
        "num_key_value_heads": None, "num_hidden_layers": 80, "vocab_size": 128_256, "tie_word_embeddings": False,
        "block_configs": [{"attention": GONE if size.startswith("-") else {"no_op": False, "n_heads_in_group": 8},
                           "ffn": {"no_op": False, "ffn_mult": abs(float(size))}} for size in SUPER.split()]},
    1_170_340_608: {
        "model_type": "lfm2", "hidden_size": 2048, "block_ff_dim": 12_288, "num_attention_heads": 32,
        "num_key_value_heads": 8, "num_hidden_layers": 16, "vocab_size": 65_536, "block_multiple_of": 256,
        "block_ffn_dim_multiplier": 1.0, "full_attn_idxs": [2, 5, 8, 10, 12, 14]},
    1_215_064_704: {
        "model_type": "zamba2", "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32,
        "num_key_value_heads": 32, "num_hidden_layers": 38, "vocab_size": 32_000, "n_mamba_heads": 64,
        "mamba_d_state": 128, "adapter_rank": 128, "use_shared_attention_adapter": True,
        "layers_block_type": ["hybrid" if layer in range(5, 36, 6) else "mamba" for layer in range(38)]},
    7_721_324_544: {
        "model_type": "qwen", "hidden_size": 4096, "intermediate_size": 22_016, "num_attention_heads": 32,
        "num_hidden_layers": 32, "vocab_size": 151_936, "kv_channels": 128, "no_bias": True,
        "tie_word_embeddings": False},
}  # fmt: skip
"""Parameters of Llama-3_3-Nemotron-Super-49B-v1, LFM2-1.2B, Zamba2-1.2B and Qwen-7B, and what their configs say."""


@pytest.mark.parametrize("total", TOTALS, ids=lambda total: TOTALS[total]["model_type"])
def test_what_a_family_calls_for_adds_up_to_the_published_number_of_parameters(total: int) -> None:
    found = open_skeleton(f"config {json.dumps(TOTALS[total])}\nstranger BF16 [1]").problems

    shapes = [json.loads(problem.expected.partition("]")[0] + "]") for problem in found if problem.message == ABSENT]
    assert sum(map(prod, shapes)) == total
