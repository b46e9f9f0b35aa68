"""Tiny models of 2026 as their publishers store them, where transformers does not write them so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from archs.tiny import Tiny, written, written_inside

WIDE = ("A_log", "dt_bias", "o_norm.weight", "_conv1d.weight", "e_score_correction_bias")
"""What publishers keep in F32, by the ends of names."""
NO_LINEAR = ("moe.gate", "mlp.gate", "_res_proj", "weights_proj")
"""Modules of a weight with two axes that stay as they are in a quantized model, by the ends of names."""
SETTINGS = {"num_heads": 12, "head_dim": 4, "short_conv_kernel_size": 4, "kda_layers": [1], "full_attn_layers": [2]}


def linears_of(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> frozenset[str]:
    """The linear layers of a model's layers: modules of a weight with two axes."""
    modules = (name.removesuffix(".weight") for name, (_, shape) in tensors.items()
               if name.endswith(".weight") and ".layers." in name and len(shape) == 2)  # fmt: skip
    return frozenset(module for module in modules if not module.endswith(NO_LINEAR))


def all_linear(tiny: Tiny) -> Tiny:
    """The same, where transformers saves some linear layers under other names than it has them in memory."""
    return replace(tiny, linears=linears_of(tiny.tensors))


def published(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The same with the dense layer's MLP under "mlp", and in F32 what publishers keep so."""
    return {name.replace("layers.0.block_sparse_moe", "layers.0.mlp"): ("F32" if name.endswith(WIDE) else dtype, shape)
            for name, (dtype, shape) in tensors.items()}  # fmt: skip


def kimi_linear() -> Tiny:
    """Kimi Linear with its publisher's configuration, and under his names."""
    tiny = written("kimi_linear")
    gone = ("linear_", "layer_types", "mlp_layer_types", "n_routed_experts")
    config = {key: value for key, value in tiny.config.items() if not key.startswith(gone)}
    config |= {"linear_attn_config": SETTINGS, "first_k_dense_replace": 1, "moe_layer_freq": 1}
    tensors = published(tiny.tensors)
    return Tiny(config, tensors, linears_of(tensors))


def kimi_k3(*, plain: bool = False) -> Tiny:
    """Kimi-K3, which is not in transformers: names and shapes of its headers.

    `plain`: without what its configuration can switch off.
    """
    base = written("kimi_linear", (("q_lora_rank", 14),))
    tensors = published(base.tensors)
    delta, full, moe = ("model.layers.0.self_attn.", "model.layers.1.self_attn.", "model.layers.1.block_sparse_moe.")
    tensors[f"{delta}A_log"] = ("F32", (4,))
    if not plain:
        for name in ("g_a_proj", "g_b_proj"):
            del tensors[f"{delta}{name}.weight"]
        mixes = ("model.output_attn_res", *(f"model.layers.{layer}.{half}_res" for layer in range(2)
                                            for half in ("self_attention", "mlp")))  # fmt: skip
        more = {f"{delta}g_proj.weight": (48, 48), f"{full}g_proj.weight": (48, 48),
                f"{moe}routed_expert_down_proj.weight": (20, 48), f"{moe}routed_expert_up_proj.weight": (48, 20),
                f"{moe}routed_expert_norm.weight": (20,)}  # fmt: skip
        more |= {f"{name}_norm.weight": (48,) for name in mixes} | {f"{name}_proj.weight": (1, 48) for name in mixes}
        for expert in range(4):
            at = f"{moe}experts.{expert}."
            more |= {f"{at}w1.weight": (24, 20), f"{at}w3.weight": (24, 20), f"{at}w2.weight": (20, 24)}
        tensors |= {name: ("BF16", shape) for name, shape in more.items()}
    tensors = {f"language_model.{name}": it for name, it in tensors.items()}
    tensors |= {"vision_tower.encoder.blocks.0.wqkv.weight": ("BF16", (96, 32)),
                "mm_projector.proj.0.weight": ("BF16", (128, 128))}  # fmt: skip
    text = {**kimi_linear().config, "q_lora_rank": 14, "hidden_act": "situ"}
    if not plain:
        text |= {"linear_attn_config": {**SETTINGS, "use_full_rank_gate": True}, "mla_use_output_gate": True,
                 "routed_expert_hidden_size": 20, "latent_moe_use_norm": True, "attn_res_block_size": 2}  # fmt: skip
    return Tiny({"model_type": "kimi_k3", "text_config": text}, tensors, linears_of(tensors))


def glm5_next(*, shared: bool = False) -> Tiny:
    """GLM-5.3 with its publisher's configuration and its layer for multi-token prediction, as in its headers.

    `shared`: without that layer; one layer takes the tokens that the one before it has chosen.
    """
    case = ("glm5_next", "glm5_next_text", "glm5_next_vision")
    if shared:
        kinds = ("linear_attention", "full_attention", "full_attention")
        return written_inside(*case, (("num_hidden_layers", 3), ("layer_types", kinds), ("attention_bias", True),
                                      ("mlp_layer_types", ("dense", "dense", "sparse")),
                                      ("indexer_types", ("full", "full", "shared"))))  # fmt: skip
    tiny = written_inside(*case)
    last, at = "model.language_model.layers.1.", "model.language_model.layers.2."
    tensors = {**tiny.tensors}
    tensors |= {at + name[len(last) :]: it for name, it in tensors.items() if name.startswith(last)
                and "hc_" not in name}  # fmt: skip
    tensors |= {f"{at}{name}.weight": ("BF16", (48,)) for name in ("enorm", "hnorm", "shared_head.norm")}
    tensors[f"{at}eh_proj.weight"] = ("BF16", (48, 96))
    gone = ("linear_", "indexer_types", "mlp_layer_types")
    text = {key: value for key, value in tiny.config["text_config"].items() if not key.startswith(gone)}
    text |= {"num_nextn_predict_layers": 1, "layer_types": ["linear_attention", "deepseek_sparse_attention"],
             "linear_attn_config": {**SETTINGS, "kda_layers": [0], "full_attn_layers": [1]}}  # fmt: skip
    stored = {name: ("F32" if name.endswith(WIDE) or "hc_" in name else dtype, shape)
              for name, (dtype, shape) in tensors.items()}  # fmt: skip
    return Tiny({"model_type": "glm5_next", "text_config": text}, stored, linears_of(stored) - {f"{at}eh_proj"})


def hy_v4() -> Tiny:
    """Hunyuan 4 under its publisher's names, with its layer for multi-token prediction, as in its index."""
    tiny = written("hy_v4")
    tensors = {re.sub(r"hc_pre\.(hc_(?:attn|mlp)_layer)", r"\1.hc_pre", name): it for name, it in tiny.tensors.items()}
    tensors = {name.replace("hc_pre.hc_head", "hc_head"): it for name, it in tensors.items()}
    tensors = {re.sub(r"(mlp\.(?:\w+\.)?)linear_gate", r"\1gate_proj", name): it for name, it in tensors.items()}
    last, at = "model.layers.1.", "model.mtp_layers.0."
    tensors |= {at + name[len(last) :]: it for name, it in tensors.items() if name.startswith(last)
                and "hc_" not in name}  # fmt: skip
    tensors |= {f"{at}{name}.weight": ("BF16", (48,)) for name in ("enorm", "hnorm", "final_layernorm")}
    tensors[f"{at}eh_proj.weight"] = ("BF16", (48, 96))
    stored = {name: ("F32" if name.endswith(("hc_fn", "hc_base", "hc_scale")) else dtype, shape)
              for name, (dtype, shape) in tensors.items()}  # fmt: skip
    config = {key: value for key, value in tiny.config.items() if not key.startswith("indexer_")}
    return Tiny({**config, "num_nextn_predict_layers": 1}, stored, linears_of(stored))


def laguna() -> Tiny:
    """Laguna with the keys of its publisher's configurations that have no lists: as many heads in every layer."""
    tiny = written("laguna", (("num_attention_heads_per_layer", None),))
    gone = ("num_attention_heads_per_layer", "layer_types", "mlp_layer_types")
    config = {key: value for key, value in tiny.config.items() if key not in gone}
    config |= {"mlp_only_layers": [0], "decoder_sparse_step": 1, "gating": "per-head"}
    return all_linear(replace(tiny, config=config))


def step3(*, inside: bool = True) -> Tiny:
    """Step3, which is not in transformers: names and shapes of its modeling_step3.py.

    `inside`: with its vision model, and layers with experts listed.
    """
    shapes = {"lm_head": (51, 48), "model.embed_tokens": (51, 48), "model.norm": (48,)}
    for at in ("model.layers.0.", "model.layers.1."):
        shapes |= {f"{at}self_attn.{name}": shape for name, shape in {
            "q_proj": (14, 48), "k_proj": (10, 48), "v_proj": (10, 48), "inter_norm": (14,), "wq": (60, 14),
            "o_proj": (48, 60)}.items()}  # fmt: skip
        shapes |= dict.fromkeys((f"{at}input_layernorm", f"{at}post_attention_layernorm"), (48,))
    parts, at = {"gate_proj": (24, 48), "up_proj": (24, 48), "down_proj": (48, 24)}, "model.layers.1."
    shapes |= {f"model.layers.0.mlp.{name}": shape for name, shape in parts.items()}
    shapes |= {f"{at}share_expert.{name}": shape for name, shape in parts.items()}
    stacks = {f"{at}moe.{name}.weight": (4, *shape) for name, shape in parts.items()}
    tensors = {f"{name}.weight": shape for name, shape in shapes.items()} | stacks | {f"{at}moe.gate.weight": (4, 48)}
    text = {"model_type": "step3_text", "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6,
            "num_attention_groups": 1, "head_dim": 10, "share_q_dim": 14, "intermediate_size": 24, "vocab_size": 51,
            "moe_num_experts": 4, "moe_intermediate_size": 24, "share_expert_dim": 24}  # fmt: skip
    config = {"model_type": "step3_vl", "text_config": {**text, "moe_layers_enum": "1"}} if inside else text
    if inside:
        tensors |= {"vision_model.embeddings.class_embedding": (1, 32), "vit_downsampler.weight": (64, 32, 2, 2),
                    "vit_downsampler2.weight": (128, 64, 3, 3), "vit_large_projector.weight": (48, 128)}  # fmt: skip
    stored = {name: ("BF16", shape) for name, shape in tensors.items()}
    return Tiny(config, stored, linears_of(stored))


def bailing_hybrid(*, lightning: bool = False) -> Tiny:
    """Ling 3.0 tiny with a layer for multi-token prediction, under its publisher's names and keys.

    `lightning`: Ling 2.6, which is not in transformers: lightning attention, and no gate of latent attention.
    """
    kinds = ("linear_attention", "full_attention") * 2
    said = (("num_hidden_layers", 4), ("layer_types", kinds), ("mlp_layer_types", ("dense", *("sparse",) * 3)))
    tensors = dict(written("bailing_hybrid", said).tensors)
    more: dict[str, tuple[int, ...]] = {}
    for number in range(4):
        at = f"model.layers.{number}.attention."
        if number % 2:
            gone = (f"{at}q_proj.weight", *([f"{at}g_proj.weight"] if lightning else []))
            more |= {f"{at}q_a_proj.weight": (14, 48), f"{at}q_a_layernorm.weight": (14,),
                     f"{at}q_b_proj.weight": (120, 14)}  # fmt: skip
        elif lightning:
            gone = tuple(name for name in tensors if name.startswith(at) and "dense" not in name)
            more |= {f"{at}query_key_value.weight": (144, 48), f"{at}g_proj.weight": (48, 48),
                     f"{at}g_norm.weight": (48,), f"{at}query_layernorm.weight": (4,),
                     f"{at}key_layernorm.weight": (4,)}  # fmt: skip
        else:
            gone = (f"{at}dense.weight",)
            more[f"{at}o_proj.weight"] = (48, 48)
        tensors = {name: it for name, it in tensors.items() if name not in gone}
    stored = {**tensors, **{name: ("BF16", shape) for name, shape in more.items()}}
    last, at = "model.layers.3.", "model.layers.4."
    stored |= {at + name[len(last) :]: it for name, it in stored.items() if name.startswith(last)}
    stored |= {f"{at}{name}.weight": ("BF16", (48,)) for name in ("enorm", "hnorm", "final_layernorm")}
    stored[f"{at}eh_proj.weight"] = ("BF16", (48, 96))
    stored = {name: ("F32" if name.endswith((*WIDE, "expert_bias")) else dtype, shape)
              for name, (dtype, shape) in stored.items()}  # fmt: skip
    config = {"model_type": "bailing_hybrid", "hidden_size": 48, "intermediate_size": 36, "num_hidden_layers": 4,
              "num_attention_heads": 12, "num_key_value_heads": 12, "head_dim": 4, "vocab_size": 51,
              "layer_group_size": 2, "first_k_dense_replace": 1, "num_experts": 4, "num_shared_experts": 1,
              "moe_intermediate_size": 24, "moe_router_enable_expert_bias": True, "num_nextn_predict_layers": 1,
              "q_lora_rank": 14, "kv_lora_rank": 10, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 8,
              "use_qk_norm": True, "use_bias": False, "use_qkv_bias": False}  # fmt: skip
    if lightning:
        return Tiny(config, stored, linears_of(stored))
    config |= {"short_conv_kernel_size": 4, "gated_attention_proj_granularity_type": "head_wise",
               "expert_swiglu_limit_list": [None, None, None, 7.0, 7.0]}  # fmt: skip
    return Tiny(config, stored, linears_of(stored))
