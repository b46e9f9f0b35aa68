"""F8L902: a KV-cache scale lies under a name that some engines do not read."""

from collections.abc import Iterator

from fp8load.engines.encodings import FOREIGN
from fp8load.errors import Problem, Severity
from fp8load.formats.kv_names import BOTH
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import STATIC_KV, TENSOR_WISE
from fp8load.rules.targets import both, engines

ONE = "model.layers.{0..1}.self_attn.kv_scale  F32  []\n"
OWN = "model.layers.{0..1}.self_attn.attn.{k,v}_scale  F32  []\n"
PLAIN = "model.layers.{0..1}.self_attn.{k,v}_scale  F32  []\n"
PROJECTIONS = """\
model.layers.{0..1}.self_attn.k_proj.k_scale  F32  []
model.layers.{0..1}.self_attn.v_proj.v_scale  F32  []
"""


def check(context: Context) -> Iterator[Problem]:
    """Scales of no layer, which the family's check found; names that differ between engines; names nobody reads."""
    yield from context.problems("F8L902")
    lowered = context.checkpoint.lowered
    for (attention, role), meta in lowered.kv.items():
        if meta.name != f"{attention}.{role}":
            shared = meta.name.endswith(f".{BOTH}")
            yield Problem(
                code="F8L902", message="one scale is stored for keys and values" if shared
                else "a KV-cache scale is stored under another name", tensor=meta.name, file=meta.file,
                expected=f"{attention}.{role}", got=meta.name, severity=Severity.INFO, refuses=False,
                hint="fp8load reads this spelling; engines that do not drop the scale silently",
            )  # fmt: skip
    for meta in lowered.loose.values():
        if meta.name.endswith(FOREIGN):
            yield Problem(
                code="F8L902", message="a KV-cache scale has a name that no format reads", tensor=meta.name,
                file=meta.file, expected="self_attn.k_scale and self_attn.v_scale", got=meta.name,
                severity=Severity.INFO, refuses=False, hint="rename it, or the cache runs at scale 1.0",
            )  # fmt: skip


RULE = Rule(
    code="F8L902",
    name="kv-scale-name",
    level="headers",
    severity=Severity.INFO,
    what="KV-cache scales are called self_attn.k_scale and self_attn.v_scale. One of no layer is an error.",
    why="A scale under another name is dropped without a message, and the cache runs at 1.0.",
    fix="Rename the scales to the spelling of the engine.",
    check=both(check, engines("F8L902")),
    examples=(
        Example(title="ModelOpt's names", skeleton=STATIC_KV + TENSOR_WISE + PROJECTIONS, count=4),
        Example(title="one for keys and values", skeleton=STATIC_KV + TENSOR_WISE + ONE, count=4),
        Example(title="the usual names", skeleton=STATIC_KV + TENSOR_WISE + PLAIN, count=0),
        Example(
            title="names of an engine's own, in its older version",
            skeleton=STATIC_KV + TENSOR_WISE + OWN,
            count=4,
            engine="vllm@0.11",
        ),
        Example(title="in its newer one", skeleton=STATIC_KV + TENSOR_WISE + OWN, count=0, engine="vllm@0.33"),
    ),
)
