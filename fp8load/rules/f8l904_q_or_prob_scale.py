"""F8L904: some attention layers store a scale for queries or for probabilities, and others do not."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.f8l901_kv_scheme_without_scales import SCALES
from fp8load.rules.families import attentions
from fp8load.rules.samples import STATIC_KV, TENSOR_WISE
from fp8load.scheme import Role


def check(context: Context) -> Iterator[Problem]:
    """Where the family is not known; where it is, such a scale is asked of every layer (F8L901)."""
    checkpoint = context.checkpoint
    if checkpoint.model is not None:
        return
    stored = checkpoint.lowered.kv
    modules = attentions(checkpoint)
    for role in (Role.Q_SCALE, Role.PROB_SCALE):
        num_stored = sum((attention, role) in stored for attention in modules)
        for attention in modules if num_stored else ():
            if (attention, role) not in stored:
                yield Problem(
                    code="F8L904", message=f"{role} is stored in some layers only", tensor=f"{attention}.{role}",
                    expected=f"a scale [1], as {num_stored:,} of {len(modules):,} layers have", got="none",
                    severity=Severity.INFO, refuses=False, hint="engines run this layer at 1.0",
                )  # fmt: skip


RULE = Rule(
    code="F8L904",
    name="q-or-prob-scale",
    level="headers",
    severity=Severity.INFO,
    what="Where one attention layer stores q_scale or prob_scale, all do.",
    why="A layer without it runs at 1.0, which clips or loses small values where the others do not.",
    fix="Calibrate all layers alike.",
    check=check,
    examples=(
        Example(title="q_scale in one of two layers", count=1,
                skeleton=STATIC_KV + TENSOR_WISE + SCALES + "model.layers.0.self_attn.q_scale  F32  []\n"),
        Example(title="in both", count=0,
                skeleton=STATIC_KV + TENSOR_WISE + SCALES + "model.layers.{0..1}.self_attn.q_scale  F32  []\n"),
        Example(title="in none", skeleton=STATIC_KV + TENSOR_WISE + SCALES, count=0),
    ),
)  # fmt: skip
