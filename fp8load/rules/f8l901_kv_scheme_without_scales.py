"""F8L901: an FP8 cache with stored scales is declared, and scales are missing."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.families import attentions
from fp8load.rules.samples import STATIC_KV, TENSOR_WISE
from fp8load.scheme import Role

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint

SCALES = "model.layers.{0..1}.self_attn.{k,v}_scale  F32  []\n"


def check(context: Context) -> Iterator[Problem]:
    """None at all: a warning, the engine falls back to 1. Some: each that other layers have is missing here."""
    checkpoint = context.checkpoint
    yield from context.problems("F8L901")
    kv = checkpoint.format.kv
    if not checkpoint.lowered.kv and kv is not None and kv.static:
        yield Problem(
            code="F8L901", message="a static FP8 KV cache is declared and no scale is stored", module="kv_cache",
            file=checkpoint.format.place, expected="k_scale and v_scale in each layer", got="none", refuses=False,
            severity=Severity.WARNING, hint="engines run the cache at scale 1.0 without saying so: calibrate it",
        )  # fmt: skip
    elif checkpoint.model is None:
        yield from _partial(checkpoint)


def _partial(checkpoint: "Checkpoint") -> Iterator[Problem]:
    """The same question where no family says which layers there are. Keys alone run; values alone stop vLLM."""
    stored = checkpoint.lowered.kv
    for attention in attentions(checkpoint) if stored else ():
        missing = [role for role in (Role.K_SCALE, Role.V_SCALE) if (attention, role) not in stored]
        for role in missing:
            alone = missing == [Role.K_SCALE]
            yield Problem(
                code="F8L901", message="a KV-cache scale is missing", tensor=f"{attention}.{role}",
                expected="a scale [1], as other layers have", got="none" + (", and v_scale is there" if alone else ""),
                refuses=False, severity=Severity.ERROR if alone else Severity.WARNING,
                hint="vLLM stops on values without keys" if alone
                else "engines run this layer's cache at scale 1.0 without saying so",
            )  # fmt: skip


RULE = Rule(
    code="F8L901",
    name="kv-scheme-without-scales",
    level="headers",
    severity=Severity.WARNING,
    what="Where a static FP8 cache is declared, k_scale and v_scale are stored; where one layer has them, all have. "
    "v_scale without k_scale is an error, and so is any that is missing where the family is known.",
    why="A missing scale becomes 1.0 silently; the cache of that layer clips or loses its small values.",
    fix="Calibrate the cache scales, or remove the KV scheme from the configuration.",
    check=check,
    examples=(
        Example(title="declared, none stored", skeleton=STATIC_KV + TENSOR_WISE, count=1),
        Example(
            title="stored in one of two layers",
            count=2,
            skeleton=STATIC_KV + TENSOR_WISE + SCALES.replace("{0..1}", "0"),
        ),
        Example(title="of values only", count=2, skeleton=STATIC_KV + TENSOR_WISE + SCALES.replace("{k,v}", "v")),
        Example(title="stored in both layers", skeleton=STATIC_KV + TENSOR_WISE + SCALES, count=0),
    ),
)
