"""Kimi Linear: Kimi Delta Attention in most layers, deepseek_v3's attention in the others; experts behind dense layers.

Experts are under "block_sparse_moe", a dense layer's MLP under "mlp" (`archs/kimi_linear_saved.py` has another form).
A_log has its heads on the third of four axes, so it is whole on every rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fp8load.archs.base import Arch, Entry, Only, Plain, Vector, constant, key
from fp8load.archs.decoder import LLAMA_NORMS, W1_W3_W2, experts, gated_mlp, replicated, root
from fp8load.archs.deepseek_v3 import ATTENTION, COUNT, EXPERT_SIZE, is_dense, is_sparse
from fp8load.archs.delta_attention import HEADS, LOW_GATES, SIZES, delta_attention, settings
from fp8load.archs.layer_kinds import layer_type, opposite

IS_FULL = layer_type("full_attention")
MOE = "block_sparse_moe."
ONE = constant(1)


def derived(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `linear_attn_config` says, which counts layers from 1; where nothing lists them, 4, 8, 12 ... are full."""
    found, said = settings(config), config.get("linear_attn_config")
    if isinstance(config.get("layer_types"), list):
        return found
    full = said.get("full_attn_layers") if isinstance(said, Mapping) else None
    numbers = range(key("num_hidden_layers").of(config))
    listed = [n + 1 in full if isinstance(full, list) else n > 0 and n % 4 == 0 for n in numbers]
    return {**found, "layer_types": ["full_attention" if is_full else "linear_attention" for is_full in listed]}


DECAYS = Plain(name="self_attn.A_log", shape=(1, 1, HEADS, 1), free=True)
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
        Only(where=opposite(IS_FULL), entries=delta_attention(LOW_GATES, DECAYS)),
        Only(where=is_dense, entries=gated_mlp()),
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
