"""More tiny models that transformers does not write, or writes with other keys of the configuration."""

from __future__ import annotations

import re
from dataclasses import replace

from archs.remade import predicting, renamed
from archs.tiny import Tiny, modules_of, written, written_inside


def lfm2() -> Tiny:
    """LFM2 with the keys of its first release, which transformers reads and does not write."""
    tiny = written("lfm2")
    keys = {"intermediate_size": "block_ff_dim", "tie_word_embeddings": "tie_embedding"}
    config = {keys.get(key, key): value for key, value in tiny.config.items() if key != "layer_types"}
    return replace(tiny, config={**config, "full_attn_idxs": [1]})


def nemotron_nas(*, bias: bool = False) -> Tiny:
    """Llama-Nemotron, which is not in transformers: llama with blocks of different kinds (its modeling_decilm.py)."""
    said = (("num_hidden_layers", 5), ("head_dim", 8), ("attention_bias", bias), ("mlp_bias", bias))
    llama = written("llama", said)
    gone, none = {"no_op": True, "n_heads_in_group": None, "ffn_mult": None}, {"replace_with_linear": True}
    attentions = [{"n_heads_in_group": 3}, gone, none, {"n_heads_in_group": 6}, {"n_heads_in_group": 3}]
    mlps = [{"ffn_mult": 23.9}, {"ffn_mult": 48}, none, gone, {"intermediate_size": 36}]
    rows = {"self_attn.k_proj": [16, 0, 0, 8, 16], "self_attn.v_proj": [16, 0, 0, 8, 16],
            "self_attn.q_proj": [48, 0, 0, 48, 48], "self_attn.o_proj": [48, 0, 0, 48, 48],
            "input_layernorm": [48, 0, 48, 48, 48], "post_attention_layernorm": [48, 48, 48, 0, 48],
            "mlp.gate_proj": [768, 1536, 0, 0, 36], "mlp.up_proj": [768, 1536, 0, 0, 36],
            "mlp.down_proj": [48, 48, 0, 0, 48]}  # fmt: skip
    columns = {"mlp.down_proj": [768, 1536, 0, 0, 36]}
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, (dtype, shape) in llama.tensors.items():
        found = re.fullmatch(r"model\.layers\.(\d)\.(.*)\.(?:weight|bias)", name)
        if found is None:
            tensors[name] = (dtype, shape)
        elif size := rows[found[2]][int(found[1])]:
            wide = columns.get(found[2], [48] * 5)[int(found[1])]
            tensors[name] = (dtype, (size, wide) if len(shape) == 2 else (size,))
    linear = [f"model.layers.2.{name}" for name in ("self_attn.linear_attn", "mlp.linear_mlp")]
    tensors |= {f"{name}.weight": ("BF16", (48, 48)) for name in linear}
    blocks = [{"attention": one, "ffn": two} for one, two in zip(attentions, mlps, strict=True)]
    config = {key: value for key, value in llama.config.items() if key != "head_dim"}
    config |= {"model_type": "nemotron-nas", "block_configs": blocks, "num_key_value_heads": None,
               "intermediate_size": None}  # fmt: skip
    return Tiny(config, tensors, llama.linears & modules_of(tensors) | frozenset(linear))


def plamo3(*, tied: bool = False) -> Tiny:
    """PLaMo 3, which is not in transformers: llama with fused modules and more norms (its modeling_plamo.py)."""
    names = {"self_attn.o_proj": "mixer.o_proj", "input_layernorm": "pre_mixer_norm",
             "post_attention_layernorm": "post_mixer_norm", "model.layers": "model.layers.layers"}  # fmt: skip
    fused = {"mixer.qkv_proj": (6 + 2 * 2) * 10, "mlp.gate_up_proj": 2 * 36}
    tiny = renamed("plamo3", names, fused, {"tie_word_embeddings": tied})
    for layer in range(2):
        for name, size in (("mixer.q_norm", 10), ("mixer.k_norm", 10), ("pre_mlp_norm", 48), ("post_mlp_norm", 48)):
            tiny = tiny.having(f"model.layers.layers.{layer}.{name}.weight", (size,))
    return tiny.without("lm_head.weight") if tied else tiny


PANGU_KEYS = {
    "kv_lora_rank": "attention_kv_lora_dim", "q_lora_rank": "attention_q_lora_dim", "qk_nope_head_dim":
    "attention_qk_dim", "qk_rope_head_dim": "attention_qk_rope_dim", "v_head_dim": "attention_v_dim",
    "n_routed_experts": "num_routed_experts", "n_shared_experts": "num_shared_experts",
    "first_k_dense_replace": "num_dense_layers", "num_nextn_predict_layers": "num_mtp_layers",
}  # fmt: skip


def openpangu(*, bias: bool = True) -> Tiny:
    """openPangu Embedded, which is not in transformers: llama with biases in attention (its modeling file)."""
    llama = written("llama", (("attention_bias", bias), ("head_dim", 8)))
    config = {key: value for key, value in llama.config.items() if key != "attention_bias"}
    return replace(llama, config={**config, "model_type": "PanguEmbedded"} | ({} if bias else {"bias": False}))


def openpangu_moe(*, native: bool = True) -> Tiny:
    """openPangu Ultra MoE, which is not in transformers: deepseek_v3 with more norms (its modeling file).

    `native`: with the publisher's keys and without a correction of the router, which vLLM's reading of others has.
    """
    tiny = predicting("deepseek_v3")
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, it in tiny.tensors.items():
        if not native or not name.endswith("correction_bias"):
            tensors[name.replace("mlp.gate.e_score", "mlp.e_score")] = it
    for layer in range(3):
        at = f"model.layers.{layer}."
        tensors |= {f"{at}{name}_mlp_layernorm.weight": ("BF16", (48,)) for name in ("pre", "post")}
    keys = PANGU_KEYS if native else {}
    config = {keys.get(key, key): value for key, value in tiny.config.items() if key != "mlp_layer_types"}
    config |= {"model_type": "pangu_ultra_moe", "sandwich_norm": True, "router_enable_expert_bias": not native}
    return Tiny(config, tensors, tiny.linears)


def qwen(*, first: bool = False, bias: bool = False) -> Tiny:
    """The first Qwen, which is not in transformers: llama in names of its own (its modeling_qwen.py).

    `first`: with the keys of its first release; both say twice the size of the MLP.
    """
    names = {"self_attn.o_proj": "attn.c_proj", "mlp.gate_proj": "mlp.w2", "mlp.up_proj": "mlp.w1",
             "mlp.down_proj": "mlp.c_proj", "input_layernorm": "ln_1", "post_attention_layernorm": "ln_2",
             "model.embed_tokens": "transformer.wte", "model.norm": "transformer.ln_f",
             "model.layers": "transformer.h"}  # fmt: skip
    keys = {"head_dim": "kv_channels"}
    if first:
        keys |= {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "hidden_size": "n_embd",
                 "intermediate_size": "ffn_hidden_size"}  # fmt: skip
    tiny = renamed("qwen", names, {"attn.c_attn": 3 * 48}, {"no_bias": not bias}, keys, 8)
    config = {key: value for key, value in tiny.config.items() if key != "num_key_value_heads"}
    config["ffn_hidden_size" if first else "intermediate_size"] = 72
    biased = {"attn.c_attn": 144} | ({"attn.c_proj": 48, "mlp.w1": 36, "mlp.w2": 36, "mlp.c_proj": 48} if bias else {})
    more = {f"transformer.h.{layer}.{name}.bias": size for layer in range(2) for name, size in biased.items()}
    return Tiny(config, {**tiny.tensors, **{name: ("BF16", (size,)) for name, size in more.items()}}, tiny.linears)


def ernie4_5_moe_vl() -> Tiny:
    """ERNIE 4.5 VL with the publisher's configuration, which is flat, and its names of the vision model."""
    tiny = written_inside("ernie4_5_vl_moe", "ernie4_5_vl_moe_text", "ernie4_5_vl_moe_vision")
    tensors = {name.replace("model.vision_model.", "vision_model."): it for name, it in tiny.tensors.items()}
    text = {key: value for key, value in tiny.config["text_config"].items() if key != "mlp_layer_types"}
    text |= {"model_type": "ernie4_5_moe_vl", "moe_num_experts": [4, 4], "moe_layer_start_index": [1, 1],
             "moe_layer_end_index": [2, 1], "moe_layer_interval": 1}  # fmt: skip
    return Tiny(text, tensors, tiny.linears)
