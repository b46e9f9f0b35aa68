"""Tiny models that transformers does not write: those of publishers' own code, and layers that it leaves out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from archs.tiny import Tiny, modules_of, written, written_inside

V4_NAMES = (
    (r"^model\.hc_head\.hc_", "hc_head_"),
    (r"^model\.embed_tokens", "embed"),
    (r"^model\.", ""),
    (r"\.attn\.norm\.", ".attn.kv_norm."),
)
V4_WHOLE = ("gate", "wgate", "weights_proj", "compressor.wkv", "embed", "head", "norm")
"""What V4 leaves in BF16, by the ends of names."""
PARTS = ("gate_proj", "up_proj", "down_proj")


def baichuan() -> Tiny:
    """Baichuan, which is not in transformers: llama with q, k and v as one module (its modeling_baichuan.py)."""
    llama = written("llama", (("num_key_value_heads", 6), ("head_dim", 8)))
    tensors = dict(llama.tensors)
    for layer in range(2):
        at = f"model.layers.{layer}.self_attn"
        for part in "qkv":
            del tensors[f"{at}.{part}_proj.weight"]
        tensors[f"{at}.W_pack.weight"] = ("BF16", (3 * 48, 48))
    config = {key: value for key, value in llama.config.items() if key not in ("num_key_value_heads", "head_dim")}
    packed = {f"model.layers.{layer}.self_attn.W_pack" for layer in range(2)}
    return Tiny({**config, "model_type": "baichuan"}, tensors, llama.linears & modules_of(tensors) | packed)


def kimi_k2() -> Tiny:
    """Kimi-K2, which is not in transformers: deepseek_v3 under another name (its configuration_deepseek.py)."""
    tiny = written("deepseek_v3")
    return replace(tiny, config={**tiny.config, "model_type": "kimi_k2"})


def mimo() -> Tiny:
    """MiMo, which is not in transformers: qwen2 and layers for multi-token prediction (its modeling_mimo.py)."""
    qwen2 = written("qwen2")
    at, first = "model.mtp_layers.0", "model.layers.0"
    tensors = dict(qwen2.tensors)
    tensors.update({at + name[len(first) :]: it for name, it in qwen2.tensors.items() if name.startswith(first + ".")})
    tensors.update({f"{at}.{name}_layernorm.weight": ("BF16", (48,)) for name in ("token", "hidden", "final")})
    tensors[f"{at}.input_proj.weight"] = ("BF16", (48, 96))
    return Tiny({**qwen2.config, "model_type": "mimo", "num_nextn_predict_layers": 1}, tensors, qwen2.linears)


def predicting(model_type: str) -> Tiny:
    """A model with a layer for multi-token prediction behind the last one, which transformers neither loads nor saves.

    Names and shapes are those of DeepSeek-V3.2's and GLM-5's headers.
    """
    tiny = written(model_type)
    last, at = "model.layers.1.", "model.layers.2."
    layer = {at + name[len(last) :]: it for name, it in tiny.tensors.items() if name.startswith(last)}
    tensors = {**tiny.tensors, **layer}
    tensors.update({f"{at}{name}.weight": ("BF16", (48,)) for name in ("enorm", "hnorm", "shared_head.norm")})
    tensors[f"{at}eh_proj.weight"] = ("BF16", (48, 96))
    linears = {at + name[len(last) :] for name in tiny.linears if name.startswith(last)}
    return Tiny({**tiny.config, "num_nextn_predict_layers": 1}, tensors, tiny.linears | linears)


def internlm2() -> Tiny:
    """InternLM 2, which is not in transformers: llama in native names, wqkv in groups (its modeling_internlm2.py)."""
    names = {"self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3",
             "mlp.down_proj": "feed_forward.w2", "input_layernorm": "attention_norm",
             "post_attention_layernorm": "ffn_norm", "embed_tokens": "tok_embeddings", "lm_head": "output"}  # fmt: skip
    return renamed("internlm2", names, {"attention.wqkv": (6 + 2 * 2) * 10}, {"bias": False})


def exaone() -> Tiny:
    """EXAONE 3, which is not in transformers: llama in names of its own (its modeling_exaone.py)."""
    names = {"self_attn.o_proj": "attn.attention.out_proj", "mlp.gate_proj": "mlp.c_fc_0", "mlp.up_proj": "mlp.c_fc_1",
             "mlp.down_proj": "mlp.c_proj", "input_layernorm": "ln_1", "post_attention_layernorm": "ln_2",
             "model.embed_tokens": "transformer.wte", "model.norm": "transformer.ln_f", "model.layers": "transformer.h",
             "self_attn": "attn.attention"}  # fmt: skip
    return renamed("exaone", names, {}, {}, {"num_hidden_layers": "num_layers"})


def chatglm(*, shared: bool = True) -> Tiny:
    """GLM-4 9B by its publisher's modeling_chatglm.py; `shared`: with multi_query_attention."""
    names = {"self_attn.o_proj": "self_attention.dense", "mlp.down_proj": "mlp.dense_4h_to_h",
             "model.embed_tokens": "transformer.embedding.word_embeddings", "lm_head": "transformer.output_layer",
             "model.norm": "transformer.encoder.final_layernorm",
             "model.layers": "transformer.encoder.layers"}  # fmt: skip
    heads = 6 + 2 * (2 if shared else 6)
    said = {"multi_query_attention": shared, "multi_query_group_num": 2, "add_qkv_bias": True, "add_bias_linear": False}
    keys = {"num_hidden_layers": "num_layers", "intermediate_size": "ffn_hidden_size", "head_dim": "kv_channels",
            "vocab_size": "padded_vocab_size"}  # fmt: skip
    fused = {"self_attention.query_key_value": heads * 10, "mlp.dense_h_to_4h": 2 * 36}
    tiny = renamed("chatglm", names, fused, said, keys)
    for layer in range(2):
        name = f"transformer.encoder.layers.{layer}.self_attention.query_key_value.bias"
        tiny = tiny.having(name, (heads * 10,))
    return tiny.having("transformer.vision.patch_embedding.proj.weight", (8, 3, 14, 14))


def phi3_v() -> Tiny:
    """Phi-3.5 Vision, which is not in transformers: phi3 and a vision model (its modeling_phi3_v.py)."""
    phi3 = written("phi3")
    tiny = replace(phi3, config={**phi3.config, "model_type": "phi3_v"})
    return tiny.having("model.vision_embed_tokens.img_processor.vision_model.embeddings.class_embedding", (32,))


def renamed(
    model_type: str,
    names: Mapping[str, str],
    fused: Mapping[str, int],
    said: Mapping[str, Any],
    keys: Mapping[str, str] | None = None,
    head_dim: int = 10,
) -> Tiny:
    """Llama under another family's names and keys; `fused` modules, with these rows, stand for those of their name's
    parent that are not renamed. KV heads are said under the family's own key where it has one."""
    llama = written("llama", (("tie_word_embeddings", False), ("head_dim", head_dim)))
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    linears = set()
    for name, kind in llama.tensors.items():
        new = name
        for old, other in names.items():
            new = new.replace(old, other)
        gone = _UNFUSED.search(new)
        if gone and fused and (gone[1] == "self_attn" or any(module.startswith("mlp.") for module in fused)):
            continue
        tensors[new] = kind
        if name.rpartition(".")[0] in llama.linears:
            linears.add(new.rpartition(".")[0])
    layers = names.get("model.layers", "model.layers")
    for layer in range(2):
        for module, rows in fused.items():
            tensors[f"{layers}.{layer}.{module}.weight"] = ("BF16", (rows, 48))
            linears.add(f"{layers}.{layer}.{module}")
    config = {(keys or {}).get(key, key): value for key, value in llama.config.items()}
    return Tiny({**config, **said, "model_type": model_type}, tensors, frozenset(linears))


_UNFUSED = re.compile(r"(self_attn|mlp)\.(?:q|k|v|gate|up)_proj")
"""Modules of llama that another family has fused."""


def kimi_k25() -> Tiny:
    """Kimi-K2.5, which transformers saves under names of its own making: deepseek_v3 and towers (its modeling file)."""
    tiny = written("deepseek_v3")
    towers = {"vision_tower.encoder.blocks.0.wqkv.weight": (96, 32), "mm_projector.proj.0.weight": (128, 128)}
    tensors = {f"language_model.{name}": it for name, it in tiny.tensors.items()}
    tensors.update({name: ("BF16", shape) for name, shape in towers.items()})
    linears = frozenset(f"language_model.{name}" for name in tiny.linears)
    return Tiny({"model_type": "kimi_k25", "text_config": dict(tiny.config)}, tensors, linears)


def qwen_predicting(tiny: Tiny) -> Tiny:
    """A Qwen3-Next or Qwen3.5 with its layer for multi-token prediction, under "mtp", as the publisher names it."""
    full = next(name.partition("self_attn")[0] for name in tiny.tensors if name.endswith("q_norm.weight"))
    tensors = dict(tiny.tensors)
    tensors.update(
        {"mtp.layers.0." + name[len(full) :]: it for name, it in tiny.tensors.items() if name.startswith(full)}
    )
    for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
        tensors[f"mtp.{name}.weight"] = ("BF16", (48,))
    tensors["mtp.fc.weight"] = ("BF16", (48, 96))
    linears = {"mtp.layers.0." + name[len(full) :] for name in tiny.linears if name.startswith(full)}
    return Tiny(tiny.config, tensors, tiny.linears | linears)


def stacked(tiny: Tiny) -> Tiny:
    """The same with one tensor for the experts of a layer, [E, 2I, H] and [E, H, I]: Qwen3.5 in BF16."""
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, (dtype, shape) in tiny.tensors.items():
        found = re.fullmatch(r"(.*\.experts)\.\d+\.(\w+)_proj\.weight", name)
        if found is None:
            tensors[name] = (dtype, shape)
        elif found[2] == "down":
            tensors[f"{found[1]}.down_proj"] = (dtype, (4, *shape))
        else:
            tensors[f"{found[1]}.gate_up_proj"] = (dtype, (4, 2 * shape[0], shape[1]))
    return Tiny(tiny.config, tensors, tiny.linears & modules_of(tensors))


def one_by_one(tiny: Tiny) -> Tiny:
    """The same with experts that were stacked, over a hidden size of 48, as modules of their own: llm-compressor's."""
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, (dtype, shape) in tiny.tensors.items():
        stack, _, last = name.rpartition(".")
        if not stack.endswith(".experts"):
            tensors[name] = (dtype, shape)
            continue
        other = sum(shape[1:]) - 48
        parts = {"down_proj": (48, other)} if last == "down_proj" else dict.fromkeys(PARTS[:2], (other // 2, 48))
        tensors.update({f"{stack}.{expert}.{part}.weight": (dtype, of_part)
                        for expert in range(shape[0]) for part, of_part in parts.items()})  # fmt: skip
    linears = frozenset(name for name in modules_of(tensors) if name.rpartition(".")[2] in PARTS)
    return Tiny(tiny.config, tensors, tiny.linears | linears)


def decoder_renamed(tiny: Tiny, old: str, new: str) -> Tiny:
    """The same with the decoder under another name."""

    def named(name: str) -> str:
        return new + name[len(old) :] if name.startswith(f"{old}.") else name

    tensors = {named(name): it for name, it in tiny.tensors.items()}
    return Tiny(tiny.config, tensors, frozenset(map(named, tiny.linears)))


def deepseek_v4(*, listed: bool = True) -> Tiny:
    """DeepSeek-V4 with its prediction layer, as published: transformers' names differ in a few places, and it has none.

    `listed`: the configuration says which layers are of which kind in transformers' way, not in the publisher's.
    """
    tiny = written("deepseek_v4")
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for saved, it in tiny.tensors.items():
        name = saved
        for pattern, new in V4_NAMES:
            name = re.sub(pattern, new, name)
        tensors[name] = it
    layer = {name.replace("layers.1.", "mtp.0.", 1): it for name, it in tensors.items()
             if name.startswith("layers.1.") and ".compressor." not in name}  # fmt: skip
    head = {f"mtp.0.{name}": it for name, it in tensors.items() if name.startswith("hc_head_")}
    tensors |= layer | head
    tensors |= {f"mtp.0.{name}.weight": ("BF16", (48,)) for name in ("enorm", "hnorm", "norm")}
    tensors |= {f"mtp.0.{name}.weight": ("BF16", (48, 48)) for name in ("e_proj", "h_proj")}
    linears = frozenset(
        name for name in modules_of(tensors) if not name.endswith(V4_WHOLE) and ".".join((name, "weight")) in tensors
    )
    config = dict(tiny.config)
    if not listed:
        del config["layer_types"], config["mlp_layer_types"]
        config |= {"compress_ratios": [4, 128, 0], "num_hash_layers": 1}
    return Tiny(config, tensors, linears)


def deepseek_v41() -> Tiny:
    """DeepSeek-V4.1 in its published names: V4 without hashed layers and compressed keys of its own in every layer."""
    v4 = deepseek_v4()
    gone = re.compile(r"mtp\.|hc_head|.*(compressor|indexer|tid2eid)")
    tensors = {name: it for name, it in v4.tensors.items() if not gone.match(name)}
    more = {
        "layers.0.ffn.gate.bias": (4,), "layers.0.ffn.gate.bias_vl": (4,), "layers.1.ffn.gate.bias_vl": (4,),
        "layers.0.attn.compressor.wkv.weight": (10, 48), "layers.0.attn.compressor.wgate.weight": (10, 48),
        "layers.0.attn.compressor.norm.weight": (10,), "layers.0.attn.indexer.wk.weight": (6, 10),
        "layers.0.attn.indexer.k_norm.weight": (6,), "layers.1.engram.embed.weight": (70, 16),
        "layers.1.engram.wkv.weight": (240, 96), "layers.1.engram.q_weight": (4, 48),
        "layers.1.engram.k_weight": (4, 48), "mtp.0.main_proj.weight": (48, 96), "image_start": (48,),
        "vision.blocks.0.attn.wqkv.weight": (96, 32), "aligner.w1.weight": (48, 32),
    }  # fmt: skip
    for layer in range(2):
        more[f"layers.{layer}.attn.indexer.wq_b.weight"] = (18, 14)
        more[f"layers.{layer}.attn.indexer.weights_proj.weight"] = (3, 48)
    tensors |= {name: ("BF16", shape) for name, shape in more.items()}
    text = {key: value for key, value in v4.config.items() if key not in ("layer_types", "mlp_layer_types")}
    text |= {"compress_ratios": [2, 2, 0], "kv_source_layer_ids": [0], "index_source_layer_ids": [0, 1],
             "engram_layer_ids": [1], "engram_num_embeddings": [70], "engram_max_ngram_size": 4, "engram_n_heads": 2,
             "engram_head_dim": 16}  # fmt: skip
    linears = v4.linears & modules_of(tensors) | {"layers.1.engram.wkv"}
    return Tiny({"model_type": "deepseek_v41", "text_config": text}, tensors, linears)


def minimax(model_type: str) -> Tiny:
    """MiniMax as its publisher stores it: without the decays that transformers writes, kinds of layers as numbers."""
    tiny = written("minimax")
    tensors = {name: it for name, it in tiny.tensors.items() if not name.endswith(("_decay", "slope_rate"))}
    config = {**tiny.config, "model_type": model_type}
    if model_type != "minimax":
        del config["layer_types"]
        config["attn_type_list"] = [0, 1]
    return Tiny(config, tensors, tiny.linears)


def bailing_moe(*, second: bool = True, bias: bool = False) -> Tiny:
    """Ling and Ring, which are not in transformers: exaone_moe under other names (their modeling_bailing_moe*.py)."""
    tiny = written("exaone_moe")
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, (dtype, shape) in tiny.tensors.items():
        if re.search(r"self_attn\.[kv]_proj", name) or (not second and ("_norm." in name or "correction" in name)):
            continue
        new = name.replace("embed_tokens", "word_embeddings").replace("self_attn.", "attention.")
        new = new.replace("mlp.e_score_correction_bias", "mlp.gate.expert_bias").replace("o_proj", "dense")
        new = new.replace("q_norm", "query_layernorm").replace("k_norm", "key_layernorm")
        rows = (60 + 2 * 20, 48) if "q_proj" in new else shape
        tensors[new.replace("q_proj", "query_key_value")] = (dtype, rows)
    fused = {name.replace("self_attn.q_proj", "attention.query_key_value") for name in tiny.linears}
    renamed = {name.replace("self_attn.o_proj", "attention.dense") for name in fused}
    config = {key: value for key, value in tiny.config.items() if key != "mlp_layer_types"}
    config |= {"model_type": "bailing_moe", "use_qk_norm": second, "moe_router_enable_expert_bias": second}
    linears = renamed & modules_of(tensors)
    if bias:
        tensors |= {f"{name}.bias": ("BF16", tensors[f"{name}.weight"][1][:1]) for name in linears}
        config["use_bias"] = True
    return Tiny(config, tensors, frozenset(linears))


def step3p5() -> Tiny:
    """Step 3.5, which transformers has inside step3p7 only, with its publisher's keys and a layer for prediction."""
    tiny = written_inside("step3p7", "step3p5", "step3p5_vision")
    tensors = {name: it for name, it in tiny.tensors.items() if not name.startswith(("vision_model", "vit_"))}
    first, at = "model.layers.0.", "model.layers.2."
    tensors |= {at + name[len(first) :]: it for name, it in tensors.items() if name.startswith(first)}
    tensors |= {f"{at}{name}.weight": ("BF16", (48,)) for name in ("enorm", "hnorm", "transformer.shared_head.norm")}
    tensors[f"{at}eh_proj.weight"] = ("BF16", (48, 96))
    text = dict(tiny.config["text_config"])
    other = {"attention_type": "sliding_attention", "num_attention_heads": text.pop("num_sliding_attention_heads")}
    config = {key: value for key, value in text.items() if key != "mlp_layer_types"}
    config |= {"model_type": "step3p5", "moe_layers_enum": "1", "attention_other_setting": other}
    config |= {"num_attention_groups": config.pop("num_key_value_heads"), "num_nextn_predict_layers": 1}
    linears = {at + name[len(first) :] for name in tiny.linears if name.startswith(first)}
    return Tiny(config, tensors, frozenset((tiny.linears | linears) & modules_of(tensors)))


def dbrx() -> Tiny:
    """DBRX, whose layers are no "layers": what transformers writes, and which modules of it are linear."""
    tiny = written("dbrx")
    linears = {name.removesuffix(".weight") for name in tiny.tensors if "attn." in name or "router" in name}
    return replace(tiny, linears=frozenset(linears))


def longcat_flash(*, bias: bool = False) -> Tiny:
    """LongCat-Flash as published: experts that do nothing have no weights; transformers writes gates for them too."""
    tiny = written("longcat_flash", (("attention_bias", bias),))
    tensors = {name: it for name, it in tiny.tensors.items() if not re.search(r"\.experts\.[45]\.", name)}
    return Tiny(tiny.config, tensors, tiny.linears & modules_of(tensors))


def gemma3n() -> Tiny:
    """Gemma 3n inside its multimodal model, whose vision model transformers has elsewhere: names of its release."""
    tiny = decoder_renamed(written("gemma3n_text"), "model", "model.language_model")
    return replace(tiny, config={"model_type": "gemma3n", "text_config": tiny.config})
