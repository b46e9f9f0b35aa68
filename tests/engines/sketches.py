"""Small checkpoints, each with one thing that engines read in different ways. Names say what; a fact of a profile that
none of them, no published form and no checkpoint of the folder depends on has no place in the profile."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from corpus.bases import FP8, quantized
from corpus.targets import FUSED as FUSED_PARTS
from corpus.targets import MINIMAX, MIXED, PARTS
from engines.bricks import (
    BLOCKS,
    CODES,
    FLOAT8,
    FOUR_BITS,
    GROUPS,
    HALVES,
    INT4,
    LATENT,
    MISTRAL,
    MX4,
    MX8,
    NV4,
    NVFP4,
    TOKENS,
    TWO_GROUPS,
    WORDS,
    config,
)
from fp8load.rules.f8l105_config_group_contradiction import PARTS_AND_CLASS
from fp8load.rules.f8l107_scheme_unsupported import CHANNELS, FBGEMM
from fp8load.rules.f8l208_scale_for_a_layer_the_target_keeps_16_bit import DYNAMIC
from fp8load.rules.f8l209_expert_layout_unknown_to_target import AT, CONFIG, SHARED, SINGLE
from fp8load.rules.f8l305_ignore_needs_renaming_for_target import FULL, listed
from fp8load.rules.f8l307_ignore_granularity import FUSED, ONE
from fp8load.rules.f8l401_fused_on_disk_scalar_scale import FUSED as ONE_SCALE
from fp8load.rules.f8l602_fnuz_or_e5m2 import E5M2
from fp8load.rules.f8l603_ue8m0 import BYTES
from fp8load.rules.samples import (
    BLOCK,
    LISTED,
    LLAMA_CONFIG,
    LLAMA_REST,
    QUANTIZED,
    STATIC,
    STATIC_KV,
    TENSOR_WISE,
)

LINEAR, EXPERT = "model.layers.0.self_attn.o_proj", "model.layers.0.mlp.experts.0.down_proj"
HEADS = {name: f"{name}.weight  F8_E4M3  [256, 256]\n" for name in ("lm_head", "embed_tokens")}


COMPRESSED: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None, tuple[str, ...]]] = {
    "fp8-tensor": ("float-quantized", {**FLOAT8, "strategy": "tensor"}, TOKENS, (CODES, ".weight_scale F32 [1]")),
    "fp8-tensor-a16": ("float-quantized", {**FLOAT8, "strategy": "tensor"}, None, (CODES, ".weight_scale F32 [1]")),
    "fp8-channel-a16": ("float-quantized", {**FLOAT8, "strategy": "channel"}, None,
                        (CODES, ".weight_scale F32 [128, 1]")),
    "fp8-block-a16": ("float-quantized", BLOCKS, None, (CODES, ".weight_scale F32 [1, 1]")),
    "nvfp4": ("nvfp4-pack-quantized", NV4, {**NV4, "dynamic": "local"},
              (*NVFP4, ".input_global_scale F32 [1]")),
    "nvfp4-a16": ("nvfp4-pack-quantized", NV4, None, NVFP4),
    "mxfp4": ("mxfp4-pack-quantized", MX4, {**MX4, "dynamic": True}, (HALVES, GROUPS)),
    "mxfp4-a8": ("mxfp4-pack-quantized", MX4, TOKENS, (HALVES, GROUPS)),
    "mxfp4-a16": ("mxfp4-pack-quantized", MX4, None, (HALVES, GROUPS)),
    "mxfp8": ("mxfp8-quantized", MX8, {**MX8, "dynamic": True}, (CODES, GROUPS)),
    "int4-a8": ("pack-quantized", INT4, TOKENS, WORDS),
    "int4-a16": ("pack-quantized", INT4, None, WORDS),
}  # fmt: skip
"""Kind -> format, weights, input and tensors of compressed-tensors."""


def compressed(kind: str, at: str) -> str:
    """One module as compressed-tensors stores it."""
    form, weights, inputs, tensors = COMPRESSED[kind]
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    document = {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}
    return config(document) + "".join(f"{at}{tensor}\n" for tensor in tensors)


def modelopt(algo: str, at: str, *tensors: str, **keys: Any) -> str:
    """One module as ModelOpt stores it."""
    document = {"quant_method": "modelopt", "quant_algo": algo, **keys}
    return config(document) + "".join(f"{at}{tensor}\n" for tensor in tensors)


def nested(algo: str, *tensors: str, **keys: Any) -> str:
    """One module as older ModelOpt stores it, with a file of its own for the configuration."""
    document = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": algo, "group_size": 16, **keys}}
    return f"file hf_quant_config.json {json.dumps(document)}\n" + "".join(f"{LINEAR}{tensor}\n" for tensor in tensors)


def quark(weight: dict[str, Any], inputs: dict[str, Any] | None, at: str, *tensors: str) -> str:
    """One module as Quark stores it."""
    document = {"quant_method": "quark", "global_quant_config": {"weight": weight, "input_tensors": inputs},
                "exclude": [], "export": {"kv_cache_group": [], "pack_method": "reorder"}, "layer_quant_config": {},
                "layer_type_quant_config": {}}  # fmt: skip
    return config(document) + "".join(f"{at}{tensor}\n" for tensor in tensors)


E4M3 = {"dtype": "fp8_e4m3", "is_dynamic": False}
MX = {"dtype": "fp4", "qscheme": "per_group", "group_size": 32, "scale_format": "e8m0", "is_dynamic": False}
BY_CHANNEL = ({**E4M3, "qscheme": "per_channel", "ch_axis": 0}, {**E4M3, "qscheme": "per_tensor"})
SCALES = (".weight F8_E4M3 [128, 128]", ".weight_scale F32 [128]", ".input_scale F32 []")
NAMED_INV = "m.down_proj.weight F8_E4M3 [256, 256]\nm.down_proj.weight_scale_inv F32 []\nm.down_proj.{} F32 []\n"
FAMILY = 'config {"model_type": "qwen3_moe", "num_hidden_layers": 1, "num_experts": 2}\n'
KV_NAMES = {
    "one for both": "self_attn.kv_scale", "in projections": "self_attn.k_proj.k_scale", "own": "self_attn.attn.k_scale",
    "in fused": "self_attn.qkv_proj.k_scale", "in a mixer": "mixer.k_proj.k_scale", "cache": "self_attn.k_cache.scale",
    "outputs": "self_attn.k_proj.output_scale", "plain": "self_attn.k_scale",
}  # fmt: skip
VISION = (
    'config {"model_type": "qwen3_vl", "text_config": {"num_hidden_layers": 1, "hidden_size": 256, "vocab_size": 1024, '
    '"intermediate_size": 512, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 128}}\n'
)
MLP_IN_16_BITS = """\
model.layers.0.mlp.{gate,up}_proj.weight  BF16  [512, 256]
model.layers.0.mlp.down_proj.weight       BF16  [256, 512]
"""
ATTENTION = """\
model.layers.0.self_attn.{q,k,v,o}_proj.weight                F8_E4M3  [256, 256]
model.layers.0.self_attn.{q,k,v,o}_proj.{weight,input}_scale  F32      [1]
"""


def lists(method: str, key: str, *entries: str) -> str:
    """A Llama whose MLP is in 16 bits, with a list under a key: of ModelOpt, or of compressed-tensors."""
    weights = {**FLOAT8, "strategy": "tensor"}
    static = {**weights, "dynamic": False}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": static}}
    document: dict[str, Any] = {"quant_method": "modelopt", "quant_algo": "FP8", key: list(entries)}
    if method == "compressed-tensors":
        document = {"quant_method": method, "format": "float-quantized", "config_groups": groups, key: list(entries)}
    return LLAMA_CONFIG + config(document) + ATTENTION + MLP_IN_16_BITS + LLAMA_REST


QUANTIZED_LAYER = "model.layers.0.self_attn.o_proj"


def lists_of_fp8(**lists: Sequence[str]) -> str:
    """The same in DeepSeek's dialect, in blocks, with lists under these keys."""
    document = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    blocks = ATTENTION.replace("{weight,input}_scale  F32      [1]", "weight_scale_inv      F32      [2, 2]")
    return LLAMA_CONFIG + config(document | lists) + blocks + MLP_IN_16_BITS + LLAMA_REST


def within(model: str) -> str:
    """A language model inside a multimodal one."""
    return VISION + model.replace("model.", "model.language_model.").partition("\n")[2]


def lacking(skeleton: str, key: str) -> str:
    """A skeleton whose quantization configuration lacks a key."""
    line, _, rest = skeleton.partition("\n")
    name, _, text = line.partition(" {")
    document = json.loads(f"{{{text}")
    inner = document.get("quantization_config") or document["quantization"]
    del inner[key]
    return f"{name} {json.dumps(document)}\n{rest}"


NESTED_NVFP4 = nested("NVFP4", ".weight U8 [128, 64]", ".weight_scale F8_E4M3 [128, 8]",
                      ".{weight_scale_2,input_scale} F32 []", kv_cache_quant_algo=None, exclude_modules=[])  # fmt: skip
OF_QUARK = quark(*BY_CHANNEL, LINEAR, *SCALES)
OF_FBGEMM = FBGEMM.replace('"fbgemm_fp8"', '"fbgemm_fp8", "modules_to_not_convert": []') + CHANNELS

LISTS = {
    "full names": FULL, "a fused name of plain parts": ("model.layers.0.mlp.gate_up_proj", FULL[2]),
    "a glob": ("*.mlp.*",),
    "a part": ("mlp",), "a piece of a name": (".mlp.",), "an expression": ("re:.*mlp.*",), "nothing": ("lm_head",),
    "half of a layer": (FULL[0], FULL[2]), "a glob of parts": ("model.layers.0.mlp.*_proj",),
    "a shell's set": ("*ml[p].*",), "a part of a quantized name": ("self_attn",),
    "a piece of a quantized name": ("self_attn.o",), "a fused name": ("model.layers.0.self_attn.qkv_proj",),
}  # fmt: skip

SKETCHES: dict[str, str] = {
    **{f"compressed {kind}": compressed(kind, LINEAR) for kind in COMPRESSED},
    **{f"compressed {kind} experts": compressed(kind, EXPERT) for kind in COMPRESSED},
    "modelopt weight-only experts": modelopt("W4A16_NVFP4", EXPERT, ".weight U8 [128, 64]",
                                             ".weight_scale F8_E4M3 [128, 8]", ".weight_scale_2 F32 []"),
    "modelopt nested mxfp8": nested("MXFP8", CODES, GROUPS),
    "modelopt nested nvfp4, with its keys": NESTED_NVFP4,
    **{f"modelopt nested nvfp4 without {key}": lacking(NESTED_NVFP4, key)
       for key in ("kv_cache_quant_algo", "group_size", "exclude_modules")},
    "modelopt block experts": modelopt("FP8_PB_WO", EXPERT, CODES, ".weight_scale F32 [1, 1, 1, 1]"),
    "modelopt mxfp8 experts": modelopt("MXFP8", EXPERT, CODES, GROUPS),
    "quark by channel": OF_QUARK,
    **{f"quark without {key}": lacking(OF_QUARK, key)
       for key in ("export", "exclude", "layer_quant_config", "layer_type_quant_config")},
    "quark experts by channel": quark(*BY_CHANNEL, EXPERT, *SCALES),
    "quark experts": quark({**E4M3, "qscheme": "per_tensor"}, {**E4M3, "qscheme": "per_tensor"}, EXPERT, CODES,
                           ".weight_scale F32 []", ".input_scale F32 []"),
    "quark mxfp8": quark({**MX, "dtype": "fp8_e4m3"}, {**MX, "dtype": "fp8_e4m3", "is_dynamic": True}, LINEAR, CODES,
                         GROUPS),
    "quark mxfp4 weights": quark(MX, None, LINEAR, HALVES.replace("_packed", ""), GROUPS),
    "quark mxfp8 weights": quark({**MX, "dtype": "fp8_e4m3"}, None, LINEAR, CODES, GROUPS),
    "compressed blocks of 32": compressed("fp8-block-a16", LINEAR).replace("[128, 128], ", "[32, 32], ")
    .replace("[128, 128]}", "[32, 32]}").replace('"input_activations": null', '"input_activations": '
             '{"num_bits": 8, "type": "float", "strategy": "group", "group_size": 32, "dynamic": true}')
    .replace("[1, 1]", "[4, 4]"),
    "fbgemm": OF_FBGEMM,
    "fbgemm without modules_to_not_convert": lacking(OF_FBGEMM, "modules_to_not_convert"),
    "in compression_config": BLOCK.replace("quantization_config", "compression_config") + QUANTIZED,
    "in text_config": BLOCK.replace('{"quantization_config"', '{"text_config": {"quantization_config"')
    .replace("]}}", "]}}}") + QUANTIZED,
    "transformers' names": STATIC + NAMED_INV.format("activation_scale"),
    "heads in blocks": BLOCK + "".join(HEADS.values())
    + "".join(f"{name}.weight_scale_inv  F32  [2, 2]\n" for name in HEADS),
    "heads of fbgemm": FBGEMM + "".join(HEADS.values())
    + "".join(f"{name}.weight_scale F32 [256, 1]\n" for name in HEADS),
    "heads of compressed-tensors": DYNAMIC + "".join(HEADS.values())
    + "".join(f"{name}.weight_scale F32 [256, 1]\n" for name in HEADS),
    "heads of modelopt": config({"quant_method": "modelopt", "quant_algo": "FP8"}) + "".join(HEADS.values())
    + "".join(f"{name}.{{weight,input}}_scale F32 []\n" for name in HEADS),
    "heads of quark": quark({**E4M3, "qscheme": "per_tensor"}, {**E4M3, "qscheme": "per_tensor"}, "lm_head", CODES,
                            ".weight_scale F32 []", ".input_scale F32 []")
    + "embed_tokens.weight F8_E4M3 [128, 128]\nembed_tokens.{weight,input}_scale F32 []\n",
    "experts apart": CONFIG + BLOCK + SINGLE,
    "experts with shared scales": CONFIG + BLOCK + SHARED,
    "one expert listed under another key": CONFIG + LISTED.replace("lm_head", f"{AT}.1").replace(
        "modules_to_not_convert", "ignored_layers") + ONE,
    "one expert listed": CONFIG + LISTED.replace("lm_head", f"{AT}.1") + ONE,
    "a list of parents": listed("modules_to_not_convert", "model.layers.0.mlp"),
    "a list of full names": listed("modules_to_not_convert", *FULL),
    "the same under another key": listed("ignored_layers", *FULL),
    "a list of fused names": FUSED,
    **{f"a quantized layer in a second list, {key}": lists_of_fp8(ignored_layers=FULL, **{key: [QUANTIZED_LAYER]})
       for key in ("modules_to_not_convert", "ignore")},
    **{f"attention listed by {title}": MIXED + quantized(**FP8, ignored_layers=["lm_head", *names])
       for title, names in (("parts", PARTS), ("fused names", FUSED_PARTS))},
    "all experts listed": CONFIG + LISTED.replace("lm_head", AT).replace("modules_to_not_convert", "ignored_layers")
    + f"{AT}.{{0..1}}.{{gate,up}}_proj.weight  BF16  [128, 256]\n{AT}.{{0..1}}.down_proj.weight  BF16  [256, 128]\n"
    + QUANTIZED,
    **{f"{method} {key}: {title}": lists(method, key, *entries) for title, entries in LISTS.items()
       for method, key in (("modelopt", "ignore"), ("modelopt", "exclude_modules"), ("compressed-tensors", "ignore"))},
    "modelopt latent attention listed by parts": LATENT,
    "modelopt nested list": LLAMA_CONFIG + nested("FP8", exclude_modules=list(FULL)) + ATTENTION + MLP_IN_16_BITS
    + LLAMA_REST,
    "modelopt list of NVFP4": LLAMA_CONFIG + modelopt("NVFP4", "", ignore=list(FULL), group_size=16) + FOUR_BITS
    + MLP_IN_16_BITS + LLAMA_REST,
    "modelopt one expert listed": CONFIG + modelopt("FP8", "", exclude_modules=[f"{AT}.1.*_proj"]) + f"""\
{AT}.0.{{gate,up}}_proj.weight  F8_E4M3  [128, 256]
{AT}.0.down_proj.weight  F8_E4M3  [256, 128]
{AT}.0.{{gate,up,down}}_proj.{{weight,input}}_scale  F32 []
{AT}.1.{{gate,up}}_proj.weight  BF16  [128, 256]
{AT}.1.down_proj.weight  BF16  [256, 128]
""",
    "named as the engine names it": within(listed("modules_to_not_convert", *FULL, "RENAMED")).replace(
        "RENAMED", "language_model.model.layers.0.self_attn.o_proj"),
    "inside a multimodal model": within(listed("modules_to_not_convert", *FULL)),
    **{f"{method} inside a multimodal model": within(lists(method, "ignore", *FULL))
       for method in ("modelopt", "compressed-tensors")},
    "one scale for all parts": STATIC + ONE_SCALE,
    "E5M2": E5M2,
    "fnuz": E5M2.replace("e5m2", "float8_e4m3fnuz").replace("F8_E5M2", "F8_E4M3FNUZ"),
    "exponents as bytes": BYTES,
    "exponents of blocks, tagged": BYTES.replace("U8     ", "F8_E8M0"),
    "static scales of a tensor": STATIC + TENSOR_WISE,
    "static scales, and null for blocks": STATIC.replace('"static"', '"static", "weight_block_size": null')
    + TENSOR_WISE,
    "Mistral's names without input scales": MISTRAL,
    "blocks under the name of other scales": BLOCK + QUANTIZED.replace("weight_scale_inv", "weight_scale"),
    "modelopt mxfp4 with FP8 inputs": modelopt("W4A8_MXFP4_FP8", LINEAR, ".weight U8 [128, 64]", GROUPS,
                                               ".input_scale F32 []"),
    **{f"Laguna's {at}": 'config {"model_type": "laguna", "num_hidden_layers": 1}\n' + compressed("nvfp4", at)
       for at in (LINEAR, EXPERT)},
    "config groups of rows and of blocks": TWO_GROUPS,
    "tagged exponents": compressed("mxfp4", LINEAR).replace("U8 [128, 4]", "F8_E8M0 [128, 4]"),
    "config groups by parts and by class": PARTS_AND_CLASS,
    "a tower whose layers are renamed": MINIMAX % "vision_tower.encoder.layers.0.mlp.fc1",
    "experts of Granite in one tensor": 'config {"model_type": "granitemoe", "num_hidden_layers": 1}\n'
    + compressed("fp8-channel-a16", "m").partition("\n")[0] + """
model.layers.0.block_sparse_moe.input_linear.weight        F8_E4M3 [4, 256, 256]
model.layers.0.block_sparse_moe.input_linear.weight_scale  BF16    [4, 256, 1]
""",
    **{f"blocks of {family}": f'config {{"model_type": "{family}"}}\n' + BLOCK + QUANTIZED
       for family in ("deepseek_v3", "qwen3_5")},
    "tagged exponents of mxfp8": modelopt("MXFP8", LINEAR, CODES, ".weight_scale F8_E8M0 [128, 4]"),
    "scales in F64": BLOCK + QUANTIZED.replace("F32", "F64"),
    "no activation_scheme": LISTED.replace('"activation_scheme": "dynamic", ', "") + QUANTIZED,
    **{f"KV {title}": STATIC_KV + TENSOR_WISE + f"model.layers.{{0..1}}.{name} F32 []\n"
       for title, name in KV_NAMES.items()},
    **{f"KV {title} of compressed-tensors": compressed("fp8-tensor", LINEAR) + f"model.layers.0.{name} F32 []\n"
       for title, name in KV_NAMES.items()},
    **{f"KV {title} of quark": quark(*BY_CHANNEL, LINEAR, *SCALES) + f"model.layers.0.{name} F32 []\n"
       for title, name in KV_NAMES.items()},
}  # fmt: skip
