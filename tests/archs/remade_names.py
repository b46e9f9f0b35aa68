"""Tiny models under the names of their releases, where transformers renames on loading, or leaves layers out."""

from __future__ import annotations

from archs.tiny import Tiny


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
