"""Tiny models under the names of their releases, where transformers renames on loading, or leaves layers out."""

from __future__ import annotations

import re

from archs.tiny import Tiny, sizes_of, written, written_inside


def qwen4_predicting(tiny: Tiny) -> Tiny:
    """A Qwen4-Exp with its layer for multi-token prediction, under "mtp", as engines read it from the release."""
    full = next(name.partition("self_attn")[0] for name in tiny.tensors if name.endswith("q_norm.weight"))
    at = "mtp.layers.0."
    layer = {at + name[len(full) :]: it for name, it in tiny.tensors.items() if name.startswith(full)}
    last = {
        "mtp.hyper_connection_mixer" + name.partition("hyper_connection_mixer")[2]: it
        for name, it in tiny.tensors.items()
        if ".hyper_connection_mixer." in name
    }
    shapes = {
        "fc_embedding": (48, 48),
        "fc_hidden": (48, 48),
        "pre_fc_norm_embedding": (48,),
        "pre_fc_norm_hidden": (96,),
    }
    more = {f"mtp.{name}.weight": ("BF16", shape) for name, shape in shapes.items()}
    linears = {at + name[len(full) :] for name in tiny.linears if name.startswith(full)}
    return Tiny(tiny.config, {**tiny.tensors, **layer, **last, **more}, tiny.linears | linears)


def dots3_note() -> Tiny:
    """A dots3-note as released: a flat configuration, and a layer for multi-token prediction behind the last one.

    That layer is one with sliding attention and an ordinary MLP. The released index holds 35,381 tensors of the
    language model, which is what these names come to with the released numbers.
    """
    tiny = written_inside("dots3_note", "dots3_note_text", "")
    at, sliding, dense = "model.layers.2.", "model.layers.1.", re.compile(r"model\.layers\.0\.(?=mlp)")
    layer = {at + name[len(sliding) :]: it for name, it in tiny.tensors.items()
             if name.startswith(sliding) and ".mlp." not in name}  # fmt: skip
    layer |= {dense.sub(at, name): it for name, it in tiny.tensors.items() if dense.match(name)}
    layer |= {f"{at}{name}.weight": ("BF16", (48,)) for name in ("enorm", "hnorm", "shared_head.norm")}
    layer[f"{at}eh_proj.weight"] = ("BF16", (48, 96))
    linears = {name.removesuffix(".weight") for name in layer if "_proj" in name and not name.startswith(f"{at}eh")}
    given = {key: value for key, value in sizes_of("dots3_note_text").items() if key != "mlp_layer_types"}
    text = written("dots3_note_text").config
    said = {key: text[key] for key in ("n_routed_experts", "num_key_value_heads", "tie_word_embeddings")}
    renamed = {"moe_shared_expert_intermediate_size": given.pop("shared_experts_intermediate_size")}
    config = {**given, **said, **renamed, "model_type": "dots3_note", "use_dsa": True, "moe_layer_freq": 1}
    return Tiny(config, {**tiny.tensors, **layer}, tiny.linears | linears)


INKLING = (
    ("self_attn.q_proj", "attn.wq_du"), ("self_attn.k_proj", "attn.wk_dv"), ("self_attn.v_proj", "attn.wv_dv"),
    ("self_attn.r_proj", "attn.wr_du"), ("self_attn.o_proj", "attn.wo_ud"), ("self_attn", "attn"), (".conv1d", ""),
    ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "mlp_norm"), ("mlp.down_proj", "mlp.w2_md"),
    ("mlp.experts.gate_up_proj", "mlp.experts.w13_weight"), ("mlp.experts.down_proj", "mlp.experts.w2_weight"),
    ("gate.e_score_correction_bias", "gate.bias"), ("shared_experts.down_proj", "shared_experts.shared_w2_weight"),
    ("embed_tokens.embed_norm", "embed_norm"), ("embed_tokens", "embed"), ("lm_head", "model.unembed"),
)  # fmt: skip
"""Names of Inkling's language model in transformers and in the release, in transformers' order of renaming."""


def inkling(*, counted: bool = False) -> Tiny:
    """Inkling as released: gate and up in alternating rows of one tensor, towers, layers for multi-token prediction.

    `counted`: the configuration says which layers are of which kind, and the size of an MLP, in the release's way.
    """
    tiny = written("inkling_text")
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    linears = set()
    for saved, (dtype, of_saved) in tiny.tensors.items():
        name, shape = saved, of_saved
        for old, new in INKLING:
            name = name.replace(old, new)
        if "up_proj" in name:
            continue
        if "gate_proj" in name:
            shape = (*of_saved[:-2], of_saved[-2] * 2, of_saved[-1])
            name = name.replace("shared_experts.gate_proj", "shared_experts.shared_w13_weight")
            name = name.replace("mlp.gate_proj", "mlp.w13_dn")
        name = name.replace("model.", "model.llm.", 1)
        tensors[name] = (dtype, shape)
        if saved.rpartition(".")[0] in tiny.linears:
            linears.add(name.rpartition(".")[0])
    others = {"model.audio.encoder": (20, 48), "model.visual.layers.linear_0": (48, 96),
              "model.mtp.layers.0.input_proj": (48, 96)}  # fmt: skip
    tensors |= {f"{name}.weight": ("BF16", shape) for name, shape in others.items()}
    text = dict(tiny.config)
    if counted:
        del text["layer_types"], text["mlp_layer_types"]
        sizes = {
            "dense_intermediate_size": text["intermediate_size"],
            "intermediate_size": text["moe_intermediate_size"],
        }
        text |= {"local_layer_ids": [0], "dense_mlp_idx": 1, "sconv_kernel_size": text.pop("conv_kernel_size"), **sizes}
    return Tiny({"model_type": "inkling_mm_model", "text_config": text}, tensors, frozenset(linears))
