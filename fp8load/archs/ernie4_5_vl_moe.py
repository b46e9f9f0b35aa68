"""ERNIE 4.5 VL: experts for text and smaller ones for images, counted together on disk, text first; shared ones.

Each kind has a router, stored with a column for each expert, "gate.weight" and "gate.weight_1", and a row of the
correction. The two kinds have the names that they have in transformers; the publisher's files have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fp8load.archs.base import Arch, Dim, Experts, Flag, Only, Plain, Size, Tower, key
from fp8load.archs.decoder import LLAMA_NORMS, experts, gated_mlp, o_proj, qkv, root
from fp8load.archs.ernie4_5_moe import PREDICTION
from fp8load.archs.layer_kinds import both, has, opposite
from fp8load.archs.numbers import NOTHING

USE_BIAS = Flag(key="use_bias", default=False)
COUNT = key("experts_of_a_kind")
TEXT, IMAGES = key("moe_intermediate_size[0]"), key("moe_intermediate_size[1]")
ROUTERS = ("mlp.gate.weight", "mlp.gate.weight_1")
OTHERS = "the vision model, which fp8load keeps as stored"


def derived(config: Mapping[str, Any]) -> dict[str, Any]:
    """The experts of a kind: the publisher lists both numbers, which are the same (vLLM's ernie45_vl_moe.py)."""
    said = config.get("moe_num_experts", 64)
    return {"experts_of_a_kind": said[0] if isinstance(said, list) and said else said}


def is_sparse(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer has experts: listed, or in the publisher's range, which lists the first and last of each kind."""
    listed = config.get("mlp_layer_types")
    if isinstance(listed, list) and layer < len(listed):
        return bool(listed[layer] == "sparse")
    first, last = config.get("moe_layer_start_index"), config.get("moe_layer_end_index")
    begun = any(layer >= number for number in first) if isinstance(first, list) else layer >= 1
    ended = isinstance(last, list) and all(layer > number for number in last)
    return begun and not ended and (layer + 1) % max(key("moe_layer_interval").of(config), 1) == 0


def kind(name: str, size: Size, first: Size) -> Experts:
    """The experts of one kind, `first` the number of its first one."""
    return replace(experts(COUNT, size, within=f"mlp.{name}.experts"), stored="mlp.experts", first=first)


ARCH = Arch(
    name="ernie4_5_vl_moe",
    model_types=("ernie4_5_vl_moe", "ernie4_5_moe_vl"),
    layer=(
        qkv(bias=USE_BIAS),
        o_proj(bias=USE_BIAS),
        *LLAMA_NORMS,
        Only(where=opposite(is_sparse), entries=gated_mlp(bias=USE_BIAS)),
        Only(
            where=is_sparse,
            entries=(
                *(Plain(name=name, shape=(Dim.HIDDEN, COUNT), free=True) for name in ROUTERS),
                Plain(name="mlp.moe_statics.e_score_correction_bias", shape=(2, COUNT), free=True),
                kind("text_moe", TEXT, NOTHING),
                kind("vision_moe", IMAGES, COUNT),
            ),
        ),
        Only(
            where=both(is_sparse, has("moe_num_shared_experts")),
            entries=gated_mlp(bias=USE_BIAS, within="mlp.shared_experts.", size=TEXT * key("moe_num_shared_experts")),
        ),
    ),
    root=(
        *root(tied=True),
        *PREDICTION,
        *(
            Tower(prefix=name, reason=OTHERS)
            for name in ("vision_model", "model.vision_model", "model.resampler_model")
        ),
    ),
    text_config="text_config",
    derived=derived,
    defaults={
        "hidden_size": 2560,
        "intermediate_size": 12_288,
        "num_hidden_layers": 28,
        "num_attention_heads": 20,
        "num_key_value_heads": 4,
        "vocab_size": 103_424,
        "moe_num_shared_experts": 2,
    },
)
