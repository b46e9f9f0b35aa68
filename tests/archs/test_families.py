"""Families are what transformers writes: all of it is planned, nothing may be missing, nothing may be added."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import pytest
from transformers import AutoConfig

from archs.remade import (
    baichuan,
    bailing_moe,
    chatglm,
    dbrx,
    decoder_renamed,
    deepseek_v4,
    deepseek_v41,
    exaone,
    gemma3n,
    internlm2,
    kimi_k2,
    kimi_k25,
    longcat_flash,
    mimo,
    minimax,
    one_by_one,
    phi3_v,
    predicting,
    qwen_predicting,
    stacked,
    step3p5,
)
from archs.remade_more import ernie4_5_moe_vl, lfm2, nemotron_nas, openpangu, openpangu_moe, plamo3, qwen
from archs.remade_names import dots3_note, inkling, qwen4_predicting
from archs.remade_published import all_linear, bailing_hybrid, glm5_next, hy_v4, kimi_k3, kimi_linear, laguna, step3
from archs.tiny import Tiny, sizes_of, written, written_inside
from fp8load.archs.base import Entry, Experts, Flag, Head, Linear, Tower, Vector, sizes
from fp8load.archs.find import families, find_arch
from fp8load.plan.prove import prove_ranks

# For each type: keys of its config that add or remove tensors.
SAID: dict[str, list[dict[str, Any]]] = {
    "llama": [{}, {"attention_bias": True, "mlp_bias": True}, {"tie_word_embeddings": True}],
    "mistral": [{}],
    "ministral": [{}],
    "ministral3": [{}, {"tie_word_embeddings": True}],
    "phi3": [{}],
    "qwen2": [{}, {"tie_word_embeddings": True}],
    "qwen3": [{}, {"attention_bias": True}],
    "gemma3_text": [{}],
    "granite": [{}, {"attention_bias": True, "mlp_bias": True}],
    "olmo": [{}, {"attention_bias": True}],
    "olmo2": [{}, {"attention_bias": True}],
    "olmo3": [{}],
    "exaone4": [{}, {"tie_word_embeddings": True}],
    "cohere": [{}, {"use_qk_norm": True}, {"attention_bias": True, "tie_word_embeddings": False}],
    "cohere2": [{}],
    "gemma": [{}, {"attention_bias": True}],
    "gemma2": [{}],
    "glm": [{}, {"attention_bias": False}],
    "glm4": [{}, {"attention_bias": False}],
    "nemotron": [{}, {"attention_bias": True, "mlp_bias": True}],
    "starcoder2": [{}, {"use_bias": False, "tie_word_embeddings": False}],
    "phi": [{}, {"qk_layernorm": True}, {"tie_word_embeddings": True}],
    "stablelm": [{}, {"use_qkv_bias": True}, {"qk_layernorm": True, "use_parallel_residual": True}],
    "smollm3": [{}, {"attention_bias": True, "mlp_bias": True}],
    "hunyuan_v1_dense": [{}, {"attention_bias": True}],
    "ernie4_5": [{}, {"use_bias": True, "tie_word_embeddings": False}],
    "seed_oss": [{}, {"attention_bias": False, "attention_out_bias": True, "mlp_bias": True}],
    "arcee": [{}, {"attention_bias": True, "mlp_bias": True}],
    "internlm3": [{}, {"qkv_bias": True, "bias": True}],
    "helium": [{}, {"attention_bias": True, "mlp_bias": True}],
    "cwm": [{}, {"mlp_bias": True}],
    "minimax_m2": [{}],
    "gemma3n_text": [{}, {"attention_bias": True}],
    "exaone_moe": [{}, {"tie_word_embeddings": True}],
    "dots1": [{}, {"attention_bias": True}],
    "solar_open": [{}, {"attention_bias": True}],
    "afmoe": [{}, {"attention_bias": True}],
    "hy_v3": [{}],
    "lfm2_moe": [{}, {"conv_bias": True, "use_expert_bias": False, "tie_word_embeddings": False}],
    "lfm2": [
        {},
        {"conv_bias": True, "tie_word_embeddings": False, "block_auto_adjust_ff_dim": False},
        {"block_ffn_dim_multiplier": 1.5, "layer_types": None},
    ],
    "zamba2": [
        {},
        {"use_shared_attention_adapter": True, "add_bias_linear": True, "tie_word_embeddings": False},
        {"num_mem_blocks": 1, "use_shared_attention_adapter": True},
        {"intermediate_size": None, "num_key_value_heads": 2},
    ],
    "falcon_h1": [
        {},
        {"mamba_rms_norm": True, "mamba_conv_bias": False, "projectors_bias": True, "mlp_bias": True},
        {"mamba_proj_bias": True, "attention_bias": True, "mamba_d_ssm": None},
    ],
    "cohere2_moe": [{}, {"attention_bias": True, "num_shared_experts": 2}],
    "mimo_v2_flash": [{}, {"attention_bias": True}],
    "jamba": [{}, {"mamba_proj_bias": True, "mamba_conv_bias": False, "num_experts": 1, "mamba_dt_rank": "auto"}],
    "gemma4_text": [
        {},
        {
            "hidden_size_per_layer_input": 0,
            "enable_moe_block": True,
            "num_experts": 4,
            "moe_intermediate_size": 24,
            "top_k_experts": 2,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "attention_bias": True,
        },
        {
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
            "layer_types": ("sliding_attention", "full_attention") * 2,
        },
    ],
    "phimoe": [{}, {"attention_bias": True, "lm_head_bias": True}],
    "olmoe": [{}, {"attention_bias": True}],
    "hunyuan_v1_moe": [{}, {"attention_bias": True}],
    "ernie4_5_moe": [{}, {"use_bias": True, "tie_word_embeddings": False, "moe_layer_interval": 2}],
    "granitemoe": [{}, {"attention_bias": True}],
    "granitemoeshared": [{}, {"shared_intermediate_size": 0}],
    "granitemoehybrid": [{}, {"num_local_experts": 0, "mamba_proj_bias": True}, {"mamba_conv_bias": False}],
    "nemotron_h": [{}, {"moe_latent_size": 16, "use_bias": True, "mlp_bias": True}, {"use_conv_bias": False}],
    "mixtral": [{}],
    "qwen3_moe": [{}, {"attention_bias": True, "mlp_only_layers": ()}, {"decoder_sparse_step": 2}],
    "gpt_oss": [{}],
    "bailing_hybrid": [{}, {"attention_bias": True}],
    "laguna": [
        {},
        {"gating": "per-element", "attention_bias": True},
        {"num_attention_heads_per_layer": None, "gating": "per-head", "mlp_layer_types": ("sparse", "dense")},
    ],
    "hy_v4": [{}, {"indexer_types": ("full", "shared"), "attention_bias": True}],
    "kimi_linear": [{}, {"q_lora_rank": 14, "attention_bias": True}],
    "qwen3_next": [{}],
    "deepseek_v3": [{}, {"q_lora_rank": None}, {"attention_bias": True}],
    "deepseek_v2": [{}, {"q_lora_rank": None}, {"attention_bias": True}],
    "deepseek_v32": [{}],
    "glm4_moe": [{}, {"use_qk_norm": True, "attention_bias": True}],
    "glm4_moe_lite": [{}, {"q_lora_rank": None}],
    "glm_moe_dsa": [{}, {"indexer_types": ("full", "shared")}],
    "falcon": [
        {},
        {"multi_query": False, "parallel_attn": False, "bias": True},
        {"new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 60},
        {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
        {"tie_word_embeddings": False},
    ],
    "gpt_neox": [{}, {"attention_bias": False}, {"tie_word_embeddings": True}],
    "bloom": [{}],
    "gptj": [{}, {"n_inner": 60}],
    "gpt_bigcode": [{}, {"multi_query": False, "n_inner": 60, "n_positions": 40}],
    "mpt": [{}, {"tie_word_embeddings": False}],
    "opt": [
        {},
        {"enable_bias": False, "ffn_dim": 60},
        {"do_layer_norm_before": False, "word_embed_proj_dim": 48},
        {"layer_norm_elementwise_affine": False, "max_position_embeddings": 30},
    ],
    "apertus": [{}, {"attention_bias": True}],
    "vaultgemma": [{}, {"attention_bias": True}],
    "jais2": [{}, {"attention_bias": False, "mlp_bias": False}],
    "granite_swa": [{}, {"attention_bias": True, "mlp_bias": True}, {"tie_word_embeddings": False}],
    "iquestcoder": [{}, {"attention_bias": True, "mlp_bias": True}],
    "llama4_text": [{}, {"attention_bias": True}, {"moe_layers": (0,)}],
    "qwen2_moe": [{}, {"qkv_bias": False, "mlp_only_layers": (1,)}],
    "qwen3_5_text": [{}, {"attention_bias": True}],
    "qwen3_5_moe_text": [{}, {"tie_word_embeddings": True}],
    "dots3_note_text": [
        {},
        {"attention_bias": True, "tie_word_embeddings": True},
        {"use_dsa": False},
        {"num_hidden_layers": 4, "layer_types": None, "mlp_layer_types": None, "first_k_dense_replace": 2},
    ],
    "inkling_text": [{}, {"num_hidden_layers": 3, "layer_types": None, "mlp_layer_types": None, "dense_mlp_idx": 2}],
    "inkling2_text": [{}, {"num_hidden_layers": 7, "layer_types": None}],
    "lfm3": [
        {},
        {"conv_bias": True, "attention_bias": True, "tie_word_embeddings": False},
        {"use_sandwich_norm": False, "use_attention_gate": False},
        {"num_hidden_layers": 5, "layer_types": None},
    ],
    "beam": [
        {},
        {"attention_bias": True, "tie_word_embeddings": True},
        {"num_hidden_layers": 4, "mlp_layer_types": None},
    ],
    "flint": [
        {},
        {"attention_bias": True, "tie_word_embeddings": True},
        {"num_hidden_layers": 4, "mlp_only_layers": None, "decoder_sparse_step": 4},
    ],
    "qwen4_exp_text": [
        {},
        {"ple_layer_ids": (1,)},
        {"num_hidden_layers": 3, "layer_types": ("linear_attention",) * 3, "ple_layer_ids": (1, 3)},
    ],
    "hyperclovax": [{}, {"use_post_norm": False}, {"attention_bias": True, "mlp_bias": True}],
}
INSIDE = [
    ("glm5_next", "glm5_next_text", "glm5_next_vision"),
    ("gemma3", "gemma3_text", "siglip_vision_model"),
    ("mistral3", "mistral", "pixtral"),
    ("mistral3", "ministral3", "pixtral"),
    ("mistral3", "mistral4", "pixtral"),
    ("gemma4", "gemma4_text", "gemma4_vision"),
    ("step3p7", "step3p5", "step3p5_vision"),
    ("minimax_m3_vl", "minimax_m3_vl_text", "minimax_m3_vl_vision"),
    ("glm4v", "glm4v_text", "glm4v_vision"),
    ("glm46v", "glm4v_text", "glm4v_vision"),
    ("glm4v_moe", "glm4v_moe_text", "glm4v_moe_vision"),
    ("llava", "llama", "clip_vision_model"),
    ("llava", "mistral", "pixtral"),
    ("llava_next", "mistral", "clip_vision_model"),
    ("llava_onevision", "qwen2", "siglip_vision_model"),
    ("llama4", "llama4_text", "llama4_vision_model"),
    ("lfm2_vl", "lfm2", "siglip2_vision_model"),
    ("ernie4_5_vl_moe", "ernie4_5_vl_moe_text", "ernie4_5_vl_moe_vision"),
    ("qwen2_vl", "qwen2_vl_text", "qwen2_vl_vision"),
    ("qwen2_5_vl", "qwen2_5_vl_text", "qwen2_5_vl_vision"),
    ("qwen3_vl", "qwen3_vl_text", "qwen3_vl_vision"),
    ("qwen3_vl_moe", "qwen3_vl_moe_text", "qwen3_vl_moe_vision"),
    ("qwen3_5", "qwen3_5_text", "qwen3_5_vision"),
    ("qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_moe_vision"),
    ("dots3_note", "dots3_note_text", ""),
    ("inkling2", "inkling2_text", ""),
    ("lfm3_vl", "lfm3", "lfm3_vl_vision"),
    ("muse_spark", "muse_spark_text", ""),
    ("qwen4_exp", "qwen4_exp_text", "qwen4_exp_vision"),
]
UNTIED = (("tie_word_embeddings", False),)

CASES: dict[str, Callable[[], Tiny]] = {
    "-".join([name, *(f"{key}={value}" for key, value in said.items())]): partial(written, name, tuple(said.items()))
    for name, cases in SAID.items()
    for said in cases
}
CASES |= {f"{case[0]}-{case[1]}": partial(written_inside, *case) for case in INSIDE}
CASES |= {f"{case[0]}-{case[1]}-untied": partial(written_inside, *case, UNTIED) for case in INSIDE}
CASES |= {f"{case[0]}-biased": partial(written_inside, *case, (("use_bias", True),)) for case in INSIDE
          if case[0] == "ernie4_5_vl_moe"}  # fmt: skip
CASES |= {"baichuan": baichuan, "kimi_k2": kimi_k2, "kimi_k25": kimi_k25, "mimo": mimo, "internlm2": internlm2,
          "exaone": exaone, "chatglm": chatglm, "chatglm-by-head": partial(chatglm, shared=False),
          "phi3_v": phi3_v, "lfm2-first": lfm2, "gemma3n": gemma3n,
          "ernie4_5_moe_vl": ernie4_5_moe_vl}  # fmt: skip
CASES |= {
    "bailing_moe": bailing_moe,
    "bailing_moe-first": partial(bailing_moe, second=False),
    "bailing_moe-bias": partial(bailing_moe, bias=True),
    "step3p5": step3p5,
}
CASES |= {"nemotron_nas": nemotron_nas, "nemotron_nas-bias": partial(nemotron_nas, bias=True)}
CASES |= {"plamo3": plamo3, "plamo3-tied": partial(plamo3, tied=True)}
CASES |= {"openpangu": openpangu, "openpangu-no-bias": partial(openpangu, bias=False),
          "openpangu_moe": openpangu_moe, "openpangu_moe-others": partial(openpangu_moe, native=False)}  # fmt: skip
CASES |= {"qwen": qwen, "qwen-first": partial(qwen, first=True), "qwen-bias": partial(qwen, bias=True)}
CASES |= {"dbrx": dbrx, "longcat_flash": longcat_flash, "longcat_flash-bias": partial(longcat_flash, bias=True)}
CASES |= {name: partial(minimax, name) for name in ("minimax", "minimax_text_01", "minimax_m1")}
CASES |= {
    "deepseek_v41": deepseek_v41,
    "deepseek_v4": deepseek_v4,
    "deepseek_v4-ratios": partial(deepseek_v4, listed=False),
}
CASES |= {
    f"{name}-predicting": partial(lambda case: qwen4_predicting(case()), CASES[name])
    for name in ("qwen4_exp_text", "qwen4_exp-qwen4_exp_text")
}
for said in ({"attention_bias": True}, {"num_hidden_layers": 3, "mlp_layer_types": None}):
    CASES[f"muse_spark-{'-'.join(said)}"] = partial(
        written_inside, "muse_spark", "muse_spark_text", "", tuple(said.items())
    )
CASES |= {"inkling": inkling, "inkling-counted": partial(inkling, counted=True)}
CASES["dots3_note-released"] = dots3_note
CASES["qwen4_exp_text-predicting-stacked"] = lambda: stacked(CASES["qwen4_exp_text-predicting"]())
CASES |= {name: partial(lambda case: all_linear(case()), CASES[name]) for name in CASES
          if name.startswith(("bailing_hybrid", "hy_v4", "kimi_linear", "laguna"))}  # fmt: skip
CASES |= {"kimi_linear-published": kimi_linear, "kimi_k3": kimi_k3, "kimi_k3-plain": partial(kimi_k3, plain=True)}
CASES |= {
    "bailing_hybrid-published": bailing_hybrid,
    "bailing_hybrid-lightning": partial(bailing_hybrid, lightning=True),
    "hy_v4-published": hy_v4,
    "laguna-published": laguna,
    "step3": step3,
    "step3_text": partial(step3, inside=False),
    "glm5_next-published": glm5_next,
    "glm5_next-shared": partial(glm5_next, shared=True),
}
PREDICTING = ("deepseek_v3", "deepseek_v32", "glm4_moe", "glm4_moe_lite", "glm_moe_dsa")
CASES |= {f"{name}-predicting": partial(predicting, name) for name in PREDICTING}
QWEN = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "qwen3_5-qwen3_5_text", "qwen3_5_moe-qwen3_5_moe_text")
CASES |= {f"{name}-predicting": partial(lambda case: qwen_predicting(case()), CASES[name]) for name in QWEN}
CASES |= {f"{name}-stacked": partial(lambda case: stacked(case()), CASES[name]) for name in (
    "qwen3_5_moe-qwen3_5_moe_text", "qwen3_5_moe_text-predicting")}  # fmt: skip
CASES |= {f"{name}-one-by-one": partial(lambda case: one_by_one(case()), CASES[name]) for name in (
    "llama4_text", "llama4-llama4_text", "qwen3_vl_moe-qwen3_vl_moe_text")}  # fmt: skip
CASES |= {f"{name}-renamed": partial(lambda case: decoder_renamed(case(), "model", "model.language_model"), CASES[name])
          for name in ("qwen2_vl-qwen2_vl_text", "qwen2_5_vl-qwen2_5_vl_text")}  # fmt: skip

STRANGERS = {
    (0, "self_attn.stranger.weight"): (8,),
    (1, "stranger.bias"): (48,),
    (7, "input_layernorm.weight"): (48,),
    (None, "stranger"): (48, 48),
}
"""Layer, or none, and name of a tensor that no family has, and its shape."""


@pytest.fixture(params=CASES)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    """A tiny model of a family, as it is on disk."""
    return CASES[request.param]()


@pytest.fixture(params=[False, True], ids=["plain", "fp8"])
def stored(request: pytest.FixtureRequest, tiny: Tiny) -> Tiny:
    """The same, as it is published, or with every linear layer in blocks of FP8."""
    return tiny.quantized() if request.param else tiny


def flags_of(entry: Entry) -> list[Flag]:
    """What config.json decides about an entry."""
    match entry:
        case Linear():
            return [entry.bias]
        case Vector():
            return [entry.when]
        case Head():
            return [entry.tied, entry.bias]
        case _:
            return []


def test_every_family_is_tried() -> None:
    tried = {case().config["model_type"] for case in CASES.values()}

    assert tried == {model_type for arch in families() for model_type in arch.model_types}


def test_what_transformers_writes_has_no_problem_and_is_split_over_every_legal_size(stored: Tiny) -> None:
    checkpoint = stored.open()

    assert [str(problem) for problem in checkpoint.problems] == []
    assert set(checkpoint.legal_tp()) >= {1, 2, 6}
    for tp_size in checkpoint.legal_tp():
        plans = [checkpoint.plan(tp_rank=rank, tp_size=tp_size) for rank in range(tp_size)]
        prove_ranks([plan.layout for plan in plans], checkpoint.tensors)
        assert {copy.source for plan in plans for copy in plan.copies} == set(checkpoint.tensors)


def test_every_linear_layer_is_planned_quantized_and_fused_as_the_family_says(tiny: Tiny) -> None:
    checkpoint = tiny.quantized().open()
    assert checkpoint.model is not None

    layers = checkpoint.plan().layers

    entries = {
        at + entry.target: [part.slot for part in entry.parts]
        for at, entry in checkpoint.model.entries()
        if isinstance(entry, Linear)
        if {at + entry.target, *(at + part.module for part in entry.parts)} & tiny.linears
    }
    stacks = {
        f"{at}{entry.target}.{name}": [part.slot for part in linear.parts]
        for at, entry in checkpoint.model.entries()
        if isinstance(entry, Experts)
        if any(name.startswith(at + entry.at(checkpoint.model.sizes, 0)) for name in tiny.linears)
        for name, linear in zip(("w13", "w2"), entry.spellings[0], strict=True)
    }
    assert {name: [slot for slot, _ in layer.parts] for name, layer in layers.items()} == entries | stacks


def test_whichever_tensor_is_missing_is_named(stored: Tiny) -> None:
    model = stored.open().model
    assert model is not None
    towers = tuple(f"{entry.prefix}." for _, entry in model.entries() if isinstance(entry, Tower))
    needed = [name for name in stored.tensors if not (towers and f"{name}.".startswith(towers))]

    silent = [
        name for name in needed if all(problem.tensor != name for problem in stored.without(name).open().problems)
    ]

    assert silent == []


@pytest.mark.parametrize("place", STRANGERS, ids=lambda place: place[1])
def test_a_tensor_that_the_family_does_not_have_is_named(place: tuple[int | None, str], stored: Tiny) -> None:
    layer, name = place
    model = stored.open().model
    assert model is not None
    stranger = (model.prefix if layer is None else model.at(layer)) + name

    problems = stored.having(stranger, STRANGERS[place]).open().problems

    assert stranger in {problem.tensor for problem in problems}


LATENT = {
    "gemma4_text",
    "dots3_note_text",
    "bailing_hybrid",
    "hy_v4",
    "kimi_linear",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "glm4_moe_lite",
    "glm_moe_dsa",
}
"""Families whose attention does not count in heads of one size."""


@pytest.mark.parametrize("model_type", sorted(SAID.keys() - LATENT))
def test_numbers_that_a_config_leaves_out_are_those_that_transformers_fills_in(model_type: str) -> None:
    given = {"hidden_size": 1920, "num_attention_heads": 24}
    config = AutoConfig.for_model(model_type, **given)
    arch = find_arch({"model_type": model_type})
    assert arch is not None

    found = sizes(arch.config({"model_type": model_type, **given}))

    multi_query = getattr(config, "multi_query", False)
    assert found.num_kv_heads == (1 if multi_query else getattr(config, "num_key_value_heads", None) or 24)
    assert found.head_dim == (getattr(config, "head_dim", None) or 1920 // 24)


@pytest.mark.parametrize("model_type", SAID)
def test_what_a_config_leaves_unsaid_is_what_transformers_takes_it_for(model_type: str) -> None:
    config = AutoConfig.for_model(model_type).to_dict()
    arch = find_arch({"model_type": model_type})
    assert arch is not None
    flags = {flag for entry in arch.every() for flag in flags_of(entry) if flag.key}

    for flag in flags:
        said = [config[key] for key in (flag.key, *flag.also) if key in config]
        assert said in ([], [flag.default]), flag.key


@pytest.mark.parametrize("model_type", SAID)
def test_a_null_where_transformers_takes_one_means_what_it_means_there(model_type: str) -> None:
    given = {"hidden_size": 1920, "num_attention_heads": 24}
    arch = find_arch({"model_type": model_type})
    assert arch is not None

    for key in arch.nullable:
        config = AutoConfig.for_model(model_type, **given, **{key: None})
        found = sizes(arch.config({"model_type": model_type, **given, key: None}))

        assert found.num_kv_heads == (config.num_key_value_heads or 24)
        assert found.head_dim == (getattr(config, "head_dim", None) or 1920 // 24)


def test_a_norm_for_each_head_is_whole_on_every_rank() -> None:
    tiny = written("cohere", (("use_qk_norm", True),))

    shapes = [
        tiny.open().plan(tp_rank=rank, tp_size=2).params["model.layers.0.self_attn.q_norm.weight"].shape
        for rank in range(2)
    ]

    assert shapes == [(6, sizes_of("cohere")["head_dim"])] * 2


def test_a_packed_module_that_no_layer_has_is_asked_for_by_its_name() -> None:
    tiny = written("gpt_neox")
    gone = [name for name in tiny.tensors if "query_key_value" in name]

    problems = reduce(Tiny.without, gone, tiny).open().problems

    assert {problem.tensor for problem in problems} == set(gone)


def test_buffers_that_early_exports_stored_are_left_out_with_a_reason() -> None:
    at = "gpt_neox.layers.1.attention"
    tiny = written("gpt_neox").having(f"{at}.bias", (1, 1, 20, 20)).having(f"{at}.masked_bias", ())

    plan = tiny.having(f"{at}.rotary_emb.inv_freq", (2,)).open().plan()

    reasons = {skip.source: skip.reason for skip in plan.skips}
    assert set(reasons) == {f"{at}.bias", f"{at}.masked_bias", f"{at}.rotary_emb.inv_freq"}
    assert reasons[f"{at}.bias"].startswith("the causal mask")


def test_the_publishers_and_transformers_keys_of_internlm3_mean_the_same() -> None:
    tiny = written("internlm3", (("qkv_bias", True), ("bias", True)))
    renamed = {"attention_bias": "qkv_bias", "mlp_bias": "bias"}
    published = {renamed.get(key, key): value for key, value in tiny.config.items()}

    assert {"attention_bias", "mlp_bias"} <= set(tiny.config)
    assert not Tiny(published, tiny.tensors).open().problems
