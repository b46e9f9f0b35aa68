"""Kimi Linear: Kimi Delta Attention in most layers, deepseek_v3's attention in the others; experts behind dense layers.

Experts are under "block_sparse_moe", and a dense layer's MLP is under "mlp". transformers 5.23 calls both
"block_sparse_moe" when it saves; that it has saved a model shows in the list of kinds in its configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fp8load.archs.base import Arch, Entry, Only, Vector, constant, key
from fp8load.archs.decoder import LLAMA_NORMS, W1_W3_W2, experts, gated_mlp, replicated, root
from fp8load.archs.deepseek_v3 import ATTENTION, COUNT, EXPERT_SIZE, is_dense, is_sparse
from fp8load.archs.delta_attention import HEADS, SIZES, delta_attention, low_gate, settings
from fp8load.archs.layer_kinds import both, layer_type, opposite

IS_FULL = layer_type("full_attention")
MOE = "block_sparse_moe."
ONE = constant(1)


def derived(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `linear_attn_config` says; where nothing lists kinds of layers, 4, 8, 12 ... are full (KimiLinearConfig)."""
    found = settings(config)
    if not isinstance(config.get("layer_types"), list) and "layer_types" not in found:
        numbers = range(key("num_hidden_layers").of(config))
        found["layer_types"] = ["full_attention" if n and n % 4 == 0 else "linear_attention" for n in numbers]
    return found


def is_saved_by_transformers(config: Mapping[str, Any], layer: int) -> bool:
    """Whether transformers has written the configuration: it lists which layers are dense."""
    del layer
    return isinstance(config.get("mlp_layer_types"), list)


ROUTER: tuple[Entry, ...] = (
    replicated(f"{MOE}gate", COUNT, free=True),
    Vector(name=f"{MOE}gate.e_score_correction_bias", length=COUNT, free=True),
    *gated_mlp(within=f"{MOE}shared_experts.", size=EXPERT_SIZE * key("n_shared_experts")),
)

DEFAULTS = {**SIZES, "first_k_dense_replace": 1, "n_shared_experts": 1}
ALIASES = {
    "num_experts": "n_routed_experts",
    "num_local_experts": "n_routed_experts",
    "num_shared_experts": "n_shared_experts",
}

ARCH = Arch(
    name="kimi_linear",
    model_types=("kimi_linear",),
    layer=(
        Only(where=IS_FULL, entries=ATTENTION),
        Only(where=opposite(IS_FULL), entries=delta_attention(low_gate(), (ONE, ONE, HEADS, ONE))),
        Only(where=both(is_dense, opposite(is_saved_by_transformers)), entries=gated_mlp()),
        Only(where=both(is_dense, is_saved_by_transformers), entries=gated_mlp(within=MOE)),
        Only(
            where=is_sparse,
            entries=(*ROUTER, experts(COUNT, EXPERT_SIZE, within=f"{MOE}experts", names=(W1_W3_W2,))),
        ),
        *LLAMA_NORMS,
    ),
    root=root(tied=False),
    cached=IS_FULL,
    derived=derived,
    defaults=DEFAULTS,
    aliases=ALIASES,
)
