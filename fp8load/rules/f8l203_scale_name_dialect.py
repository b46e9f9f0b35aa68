"""F8L203: a module has two tensors for one role, or one under a name that an engine does not read."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from fp8load.errors import Problem, Severity
from fp8load.index.index import TensorMeta
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED, STATIC
from fp8load.rules.targets import all_engines, both
from fp8load.scheme import LinearScheme, Role

NAMED_INV = (
    "m.down_proj.weight F8_E4M3 [256, 256]\nm.down_proj.weight_scale_inv F32 []\nm.down_proj.activation_scale F32 []\n"
)
LAYERS = QUANTIZED.replace("layers.0", "layers.{0..2}")


def check(context: Context) -> Iterator[Problem]:
    """What lowering found, and the names that are not those of the other scales of their kind."""
    yield from context.problems("F8L203")
    kinds: dict[tuple[Role, int], list[TensorMeta]] = {}
    numbers: dict[LinearScheme, int] = {}
    of_scheme: dict[int, int] = {}  # by identity: tens of thousands of modules share few schemes
    for info in context.checkpoint.lowered.modules.values():
        if info.scheme is None:
            continue
        if id(info.scheme) not in of_scheme:
            of_scheme[id(info.scheme)] = numbers.setdefault(replace(info.scheme, suffixes=()), len(numbers))
        for role in (Role.WEIGHT_SCALE, Role.INPUT_SCALE):
            meta = info.tensors.get(role)
            if meta is not None and meta.name.rpartition(".")[0] == info.name:  # else it is one for several experts
                kinds.setdefault((role, of_scheme[id(info.scheme)]), []).append(meta)
    for scales in kinds.values():
        yield from _of_another_name(scales)


def _of_another_name(scales: list[TensorMeta]) -> Iterator[Problem]:
    """Scales that mean the same and have another last component than most."""
    names = Counter(meta.name.rpartition(".")[2] for meta in scales)
    usual, count = names.most_common(1)[0]
    for meta in scales if len(names) > 1 else ():
        module, _, name = meta.name.rpartition(".")
        if name != usual:
            yield Problem(
                code="F8L203", message="scales of one kind have two names, and readers look for one", tensor=meta.name,
                module=module, file=meta.file, expected=f"{module}.{usual}",
                got=f"{name}, where {count:,} others are called {usual}", severity=Severity.ERROR, refuses=False,
                hint="rename it in the header: the numbers mean the same under both names",
            )  # fmt: skip


RULE = Rule(
    code="F8L203",
    name="scale-name-dialect",
    level="headers",
    severity=Severity.ERROR,
    what="A module has one scale for its weight, under one of the names that its format uses, and it is the same name "
         "in all modules that are quantized in one way. With --engine: under the one that this engine reads; without, "
         "names that engines read in different ways are noted.",
    why="Of weight_scale and weight_scale_inv each reader knows one; which of two numbers is meant cannot be told.",
    fix="Remove the one that is stale; rename the others in the header.",
    check=both(check, all_engines("F8L203")),
    examples=(
        Example(title="both names", count=1,
                skeleton=BLOCK + QUANTIZED + "model.layers.0.mlp.down_proj.weight_scale  F32  [2, 2]\n"),
        Example(title="DeepSeek-V4's name", skeleton=BLOCK + QUANTIZED.replace("weight_scale_inv", "scale"), count=1),
        Example(title="another name in one of three layers, beside a note for its readers", count=2,
                skeleton=BLOCK + LAYERS.replace(
                    "layers.{0..2}.mlp.down_proj.weight_scale_inv", "layers.{0..1}.mlp.down_proj.weight_scale_inv")
                + "model.layers.2.mlp.down_proj.weight_scale  F32  [2, 2]\n"),
        Example(title="one name", skeleton=BLOCK + QUANTIZED, count=0),
        Example(title="names of transformers, in vLLM: weight and input", skeleton=STATIC + NAMED_INV, count=2,
                engine="vllm@0.33"),
        Example(title="in transformers", skeleton=STATIC + NAMED_INV, count=0, engine="transformers@5.23"),
        Example(title="no engine: a note for each name", skeleton=STATIC + NAMED_INV, count=2),
    ),
)  # fmt: skip
