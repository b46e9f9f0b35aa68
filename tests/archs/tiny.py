"""Tiny models of every family, as transformers writes them: config.json, and names, dtypes and shapes of tensors."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

import fp8load
from fp8load.checkpoint import Checkpoint
from sketch import open_skeleton

BLOCK = 2
# Heads of 10 are not an even share of 48; 2 KV heads split over 2 ranks and repeat over 6.
SIZES = {"num_hidden_layers": 2, "hidden_size": 48, "intermediate_size": 36, "num_attention_heads": 6,
         "num_key_value_heads": 2, "vocab_size": 51, "pad_token_id": 0, "bos_token_id": 1,
         "eos_token_id": 2}  # fmt: skip
VISION = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 14, "depth": 1, "num_heads": 2, "out_hidden_size": 48,
          "temporal_merge_size": 2}  # fmt: skip
TOWERS: dict[str, dict[str, Any]] = {
    "inkling2": {
        "vision_config": {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "text_hidden_size": 48,
                          "projection_hidden_dim": 24, "posemb_grid_size": 4},
    },
    "muse_spark": {
        "vision_config": {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 2},
        "audio_config": {"patch_sizes": [4], "hidden_sizes": [16], "depths": [1], "num_hidden_layers": 1,
                         "out_hidden_size": 48},
        "out_hidden_size": 128, "projector_hidden_size": 24,
    },
    "dots3_note": {
        "vision_config": {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 2,
                          "adapter_in_dim": 32, "adapter_out_dim": 48, "mlp_layer_types": ["dense"]},
        "audio_config": {"whisper_config": {"d_model": 32, "encoder_attention_heads": 2, "encoder_layers": 1,
                                            "encoder_ffn_dim": 40, "num_mel_bins": 16},
                         "adapter_input_size": 32, "adapter_out_dim": 48, "downsample_hidden_size": 8},
    },
}  # fmt: skip
"""Other parts of multimodal models whose configurations have keys of their own."""
EVEN_HEADS = {"phi", "stablelm", "starcoder2", "helium", "olmoe", "apertus", "bloom", "falcon", "gpt_bigcode",
              "gpt_neox", "gptj", "mpt", "opt", "qwen2_vl_text", "qwen2_5_vl_text", "glm4v_text"}  # fmt: skip
"""Families that transformers can only build with heads that are an even share of the hidden size."""
NO_HEAD_DIM = {"falcon", "zamba2"}
"""Families whose config refuses to be told the size of a head, or computes it whatever it is told."""


@dataclass(frozen=True)
class Tiny:
    """A model on disk without its numbers: config.json, tensors (dtype, shape), and which modules are linear layers."""

    config: Mapping[str, Any]
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    linears: frozenset[str] = field(default_factory=frozenset)

    def open(self) -> Checkpoint:
        """The checkpoint, from a skeleton."""
        lines = [f"{name} {dtype} {list(shape)}" for name, (dtype, shape) in self.tensors.items()]
        return open_skeleton("\n".join([f"config {json.dumps(dict(self.config))}", *lines]))

    def without(self, name: str) -> Tiny:
        """The same with one tensor less."""
        return replace(self, tensors={key: value for key, value in self.tensors.items() if key != name})

    def having(self, name: str, shape: tuple[int, ...]) -> Tiny:
        """The same with one tensor more."""
        return replace(self, tensors={**self.tensors, name: ("BF16", shape)})

    def quantized(self) -> Tiny:
        """The same with blocks of FP8 for every linear layer."""
        tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
        for name, (dtype, shape) in self.tensors.items():
            module, _, last = name.rpartition(".")
            if module in self.linears and last == "weight":
                tensors[name] = ("F8_E4M3", shape)
                tensors[f"{name}_scale_inv"] = ("F32", tuple(-(-size // BLOCK) for size in shape))
            else:
                tensors[name] = (dtype, shape)
        above = {name[: dot.start()] for name in self.linears for dot in re.finditer(r"\.", name)}
        others = sorted({name.rpartition(".")[0] for name in tensors} - self.linears - above)
        quantization = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK],
                        "modules_to_not_convert": others}  # fmt: skip
        return replace(self, config={**self.config, "quantization_config": quantization}, tensors=tensors)


EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LINEAR_ATTENTION = {"linear_num_key_heads": 6, "linear_num_value_heads": 12, "linear_key_head_dim": 4,
                    "linear_value_head_dim": 6, "layer_types": ["linear_attention", "full_attention"]}  # fmt: skip
MAMBA = {"mamba_n_heads": 12, "mamba_d_head": 8, "mamba_d_state": 5, "mamba_d_conv": 4, "mamba_n_groups": 2,
         "mamba_expand": 2}  # fmt: skip
NGRAMS = {
    "ple_embed_dim": 16,
    "ngram_size": 3,
    "heads_per_ngram": 2,
    "ngram_vocab_size_base": 20,
    "split_ngram_parts": 3,
    "make_ngram_vocab_size_divisible_by": 8,
}
SHARED = {"shared_expert_intermediate_size": 12}
MLA = {"q_lora_rank": 14, "kv_lora_rank": 10, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 8,
       "num_key_value_heads": 6}  # fmt: skip
MIXTURE = {**EXPERTS, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
DELTA = {"linear_num_heads": 12, "linear_head_dim": 4}
INDEXER = {"index_n_heads": 3, "index_head_dim": 6}
MORE_SIZES: dict[str, dict[str, Any]] = {
    "minimax_m2": EXPERTS,
    "gemma3n_text": {"hidden_size_per_layer_input": 6, "vocab_size_per_layer_input": 51, "laurel_rank": 4,
                     "num_hidden_layers": 4, "num_kv_shared_layers": 2,
                     "layer_types": ["sliding_attention", "full_attention"] * 2},
    "longcat_flash": {**MIXTURE, **MLA, "moe_topk": 2, "zero_expert_num": 2, "ffn_hidden_size": 36,
                      "expert_ffn_hidden_size": 24, "num_hidden_layers": 4},
    "dbrx": {"d_model": 48, "n_heads": 6, "n_layers": 2, "max_seq_len": 64,
             "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0},
             "ffn_config": {"hidden_size": 48, "ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2}},
    "minimax": {**EXPERTS, "layer_types": ["linear_attention", "full_attention"]},
    "exaone_moe": EXPERTS,
    "dots1": {**MIXTURE, "n_shared_experts": 2},
    "solar_open": {**MIXTURE, "n_shared_experts": 2},
    "afmoe": EXPERTS,
    "hy_v3": {**EXPERTS, "first_k_dense_replace": 1},
    "lfm2_moe": {**EXPERTS, "layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 12},
    "zamba2": {"n_mamba_heads": 12, "mamba_d_state": 5, "mamba_ngroups": 2, "adapter_rank": 4, "num_mem_blocks": 2,
               "num_key_value_heads": 6, "num_hidden_layers": 5,
               "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid", "hybrid"]},
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 96},
    "cohere2_moe": EXPERTS,
    "minimax_m3_vl_text": {**EXPERTS, "dense_intermediate_size": 24, "shared_intermediate_size": 12, "index_n_heads": 3,
                           "index_head_dim": 6, "layer_types": ["full_attention", "minimax_m3_sparse"],
                           "mlp_layer_types": ["dense", "sparse"]},
    "mimo_v2_flash": {**EXPERTS, "n_routed_experts": 4, "v_head_dim": 8, "num_key_value_heads": 1,
                      "mlp_layer_types": ["dense", "sparse"],
                      "layer_types": ["full_attention", "sliding_attention"]},
    "step3p5": {**EXPERTS, "n_routed_experts": 4, "share_expert_dim": 12, "num_attention_heads": 12,
                "num_sliding_attention_heads": 24,
                "layer_types": ["full_attention", "sliding_attention"], "mlp_layer_types": ["dense", "sparse"]},
    "jamba": {**EXPERTS, "mamba_d_state": 5, "mamba_dt_rank": 7, "attn_layer_period": 2, "attn_layer_offset": 1},
    "gemma4_text": {"layer_types": ["sliding_attention", "full_attention"], "global_head_dim": 16,
                    "hidden_size_per_layer_input": 6, "vocab_size_per_layer_input": 51},
    "mistral4": {**MIXTURE, **MLA},
    "phimoe": EXPERTS,
    "olmoe": EXPERTS,
    "hunyuan_v1_moe": {**EXPERTS, "moe_topk": 2, "num_shared_expert": 1},
    "ernie4_5_moe": {**EXPERTS, "moe_num_experts": 4, "moe_k": 2},
    "ernie4_5_vl_moe_text": {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": [24, 12], "head_dim": 16,
                             "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0,
                                                 "mrope_section": [3, 3, 2]}},
    "granitemoe": EXPERTS,
    "granitemoeshared": {**EXPERTS, "shared_intermediate_size": 12},
    "granitemoehybrid": {**EXPERTS, **MAMBA, "shared_intermediate_size": 12, "layer_types": ["mamba", "attention"]},
    "nemotron_h": {**EXPERTS, "n_routed_experts": 4, "moe_shared_expert_intermediate_size": 12, "mamba_num_heads": 12,
                   "mamba_head_dim": 8, "n_groups": 2, "ssm_state_size": 5,
                   "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"]},
    "mixtral": EXPERTS,
    "qwen3_moe": {**EXPERTS, "mlp_only_layers": [0]},
    "gpt_oss": EXPERTS,
    "qwen2_moe": {**EXPERTS, **SHARED},
    "kimi_linear": {**MIXTURE, **MLA, **DELTA, "q_lora_rank": None, "num_expert_group": 2, "n_shared_experts": 2,
                    "layer_types": ["linear_attention", "full_attention"], "mlp_layer_types": ["dense", "sparse"]},
    "bailing_hybrid": {**{key: value for key, value in (MIXTURE | MLA).items() if key != "q_lora_rank"},
                       "num_expert_group": 2, "num_attention_heads": 12, "num_key_value_heads": 12, "head_dim": 4,
                       "layer_types": ["linear_attention", "full_attention", "linear_attention"],
                       "mlp_layer_types": ["dense", "sparse", "sparse"], "num_hidden_layers": 3},
    "laguna": {**EXPERTS, **SHARED, "num_attention_heads": 12, "num_attention_heads_per_layer": [12, 24]},
    "hy_v4": {**MIXTURE, **MLA, **INDEXER, "mlp_layer_types": ["dense", "sparse"]},
    "glm5_next_text": {**MIXTURE, **MLA, **INDEXER, **DELTA, "qk_rope_head_dim": 0, "index_kpool": 4,
                       "index_topk": 8, "layer_types": ["linear_attention", "indexed_attention"],
                       "mlp_layer_types": ["dense", "sparse"]},
    "qwen3_next": {**EXPERTS, **SHARED, **LINEAR_ATTENTION},
    "qwen3_5_text": LINEAR_ATTENTION,
    "qwen3_5_moe_text": {**EXPERTS, **SHARED, **LINEAR_ATTENTION},
    "inkling_text": {**EXPERTS, "n_routed_experts": 4, "n_shared_experts": 3, "swa_num_attention_heads": 12,
                     "swa_num_key_value_heads": 6, "swa_head_dim": 8, "d_rel": 4, "rel_extent": 16,
                     "sliding_window_size": 14, "mlp_layer_types": ["dense", "sparse"],
                     "layer_types": ["hybrid_sliding", "hybrid"]},
    "inkling2_text": {**EXPERTS, "n_routed_experts": 4, "swa_num_attention_heads": 12, "swa_num_key_value_heads": 6,
                      "swa_head_dim": 8, "d_rel": 4, "rel_extent": 16, "sliding_window_size": 14,
                      "layer_types": ["hybrid_sliding", "hybrid"]},
    "lfm3": {"num_hidden_layers": 3, "layer_types": ["conv", "sliding_attention", "full_attention"]},
    "muse_spark_text": {**EXPERTS, "moe_hidden_size": 28, "mlp_layer_types": ["dense", "sparse"]},
    "dots3_note_text": {**MIXTURE, **MLA, **INDEXER, "n_group": 1, "shared_experts_intermediate_size": 12,
                        "layer_types": ["full_attention", "sliding_attention"], "mlp_layer_types": ["dense", "sparse"],
                        "swa_num_attention_heads": 12, "swa_num_key_value_heads": 12, "swa_q_lora_rank": 8,
                        "swa_kv_lora_rank": 12, "swa_head_dim": 14, "swa_qk_nope_head_dim": 8, "swa_v_head_dim": 6},
    "beam": {**EXPERTS, "mlp_layer_types": ["dense", "sparse"], "n_group": 2, "topk_group": 1},
    "flint": {**EXPERTS, **SHARED, "mlp_only_layers": [0]},
    "qwen4_exp_text": {**EXPERTS, **SHARED, **LINEAR_ATTENTION, "indexer_n_heads": 3, "indexer_kv_heads": 1,
                       "indexer_head_dim": 6, "indexer_budget": 8, "indexer_compress_ratio": 4, "hc_count": 2,
                       "hc_lowrank": 6, "partial_rotary_factor": 0.25, **NGRAMS},
    "qwen3_vl_moe_text": {**EXPERTS, "moe_intermediate_size": 12, "tie_word_embeddings": False},
    "llama4_text": {**EXPERTS, "intermediate_size_mlp": 24, "interleave_moe_layer_step": 2},
    "deepseek_v3": {**MIXTURE, **MLA},
    "deepseek_v32": {**MIXTURE, **MLA, **INDEXER},
    "deepseek_v2": {**MIXTURE, **MLA},
    "deepseek_v4": {**MIXTURE, **INDEXER, "q_lora_rank": 14, "o_groups": 6, "o_lora_rank": 4, "num_key_value_heads": 1,
                    "layer_types": ["compressed_sparse_attention", "heavily_compressed_attention"],
                    "mlp_layer_types": ["hash_moe", "moe"]},
    "glm4_moe": MIXTURE,
    "glm4v_moe_text": MIXTURE,
    "glm4_moe_lite": {**MIXTURE, **MLA},
    "glm_moe_dsa": {**MIXTURE, **MLA, **INDEXER},
}  # fmt: skip


def sizes_of(model_type: str) -> dict[str, Any]:
    """Sizes for a config of this type."""
    head_dim = {} if model_type in NO_HEAD_DIM else {"head_dim": 8 if model_type in EVEN_HEADS else 10}
    return {**SIZES, **head_dim, **MORE_SIZES.get(model_type, {})}


def given_in(said: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Keys of a config, from what can be cached by."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in said}


@cache
def written(model_type: str, said: tuple[tuple[str, Any], ...] = ()) -> Tiny:
    """What transformers writes for a causal language model of this type; `said` are keys of its config."""
    config = AutoConfig.for_model(model_type, **{**sizes_of(model_type), **given_in(said)})
    return _saved(AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16))


@cache
def written_inside(model_type: str, text: str, vision: str, said: tuple[tuple[str, Any], ...] = ()) -> Tiny:
    """What transformers writes for a multimodal model around a language model."""
    described = {"model_type": text, **sizes_of(text), **given_in(said)}
    vision_config = {"model_type": vision, **VISION}
    towers = TOWERS.get(model_type, {"vision_config": vision_config})
    config = AutoConfig.for_model(model_type, text_config=described, **towers, **dict(said))
    return _saved(AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16))


def _saved(model: Any) -> Tiny:
    shown = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()
    try:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            index = fp8load.open(folder).index
            config, metas = dict(index.config), dict(index.tensors)
    finally:
        if shown:
            transformers.logging.enable_progress_bar()
    shapes = {name: (str(meta.dtype), meta.shape) for name, meta in metas.items()}
    found = {_in_layer(name) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    linears = (name for name in modules_of(shapes) if _in_layer(name) in found - {""} or _EXPERT.search(name))
    return Tiny(config, shapes, frozenset(linears))


_EXPERT = re.compile(r"\.experts\.\d+\.\w+$")
"""A layer of one expert, which transformers keeps stacked in memory and saves one by one."""


def _in_layer(name: str) -> str:
    """A module's name within its layer, or nothing: heads, vision and audio models are not quantized."""
    return (
        ""
        if any(tower in name for tower in ("vision", "visual", "audio"))
        else _LAYERS.split(name, maxsplit=1)[-1]
        if _LAYERS.search(name)
        else ""
    )


_LAYERS = re.compile(r"\.(?:layers|h|blocks)\.(?=\d)")
"""What stands before the number of a layer."""


def modules_of(tensors: Mapping[str, object]) -> frozenset[str]:
    """Every name without its last component."""
    return frozenset(name.rpartition(".")[0] for name in tensors)
