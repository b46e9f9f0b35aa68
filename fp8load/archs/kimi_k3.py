"""Kimi-K3: Kimi Linear's layers inside the multimodal model, with gated attention and experts of a compressed input.

Each half of a layer mixes the outputs of earlier blocks of layers by a projection to one number (attention residuals).
Names and shapes are those of its headers as converters and engines list them; A_log has a number for each channel of a
head, of which the first ones, as many as there are heads, are used: it is whole on every rank.
"""

from fp8load.archs.base import Arch, Dim, Entry, Experts, Flag, Only, Plain, Tower, Vector, key
from fp8load.archs.decoder import LLAMA_NORMS, W1_W3_W2, column, gated_mlp, norms, replicated, root
from fp8load.archs.deepseek_v3 import ATTENTION, COUNT, EXPERT_SIZE, HEADS, is_dense, is_sparse
from fp8load.archs.delta_attention import HEAD, LOW_GATES, delta_attention, full_gate, low_gate
from fp8load.archs.kimi_linear import ALIASES, DEFAULTS, IS_FULL, MOE, ONE, ROUTER, derived
from fp8load.archs.layer_kinds import both, has, lacks, opposite

OTHERS = "the vision model, which fp8load keeps as stored"
DECAYS = Plain(name="self_attn.A_log", shape=(HEAD,), free=True)
FULL_GATE = (*low_gate("f"), *full_gate("g"))
LATENT, VALUE = key("routed_expert_hidden_size"), key("v_head_dim")

COMPRESSION: tuple[Entry, ...] = (
    replicated(f"{MOE}routed_expert_down_proj", LATENT),
    replicated(f"{MOE}routed_expert_up_proj", Dim.HIDDEN, LATENT),
    Vector(
        name=f"{MOE}routed_expert_norm.weight",
        length=LATENT,
        when=Flag(key="latent_moe_use_norm", default=False),
        free=True,
    ),
)


def routed(cols: Dim | None) -> Experts:
    """Experts whose input has `cols` columns, or those of the compressed one."""
    width = LATENT if cols is None else cols
    pair = gated_mlp(within="", size=EXPERT_SIZE, names=W1_W3_W2, fused="w13", cols=width)
    return Experts(target=f"{MOE}experts", count=COUNT, spellings=(pair,), activation="situ")


def mixes(*names: str) -> tuple[Entry, ...]:
    """Norms and projections of attention residuals."""
    projections = (replicated(f"{name}_proj", ONE, free=True) for name in names)
    return (*norms(*(f"{name}_norm" for name in names)), *projections)


ARCH = Arch(
    name="kimi_k3",
    model_types=("kimi_k3",),
    layer=(
        Only(where=IS_FULL, entries=ATTENTION),
        Only(
            where=both(IS_FULL, has("mla_use_output_gate")),
            entries=(column("self_attn.g_proj", HEADS * VALUE, Dim.HIDDEN, unit=VALUE),),
        ),
        Only(where=both(opposite(IS_FULL), has("use_full_rank_gate")), entries=delta_attention(FULL_GATE, DECAYS)),
        Only(where=both(opposite(IS_FULL), lacks("use_full_rank_gate")), entries=delta_attention(LOW_GATES, DECAYS)),
        Only(where=is_dense, entries=gated_mlp()),
        Only(where=is_sparse, entries=ROUTER),
        Only(where=both(is_sparse, lacks("routed_expert_hidden_size")), entries=(routed(Dim.HIDDEN),)),
        Only(where=both(is_sparse, has("routed_expert_hidden_size")), entries=(*COMPRESSION, routed(None))),
        Only(where=has("attn_res_block_size"), entries=mixes("self_attention_res", "mlp_res")),
        *LLAMA_NORMS,
    ),
    root=(
        *root(tied=False),
        Only(where=has("attn_res_block_size"), entries=mixes("model.output_attn_res")),
        *(Tower(prefix=name, reason=OTHERS) for name in ("vision_tower", "mm_projector")),
    ),
    prefixes=("language_model.",),
    text_config="text_config",
    cached=IS_FULL,
    derived=derived,
    defaults=DEFAULTS,
    aliases=ALIASES,
)
