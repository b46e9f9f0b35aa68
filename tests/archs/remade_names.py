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
