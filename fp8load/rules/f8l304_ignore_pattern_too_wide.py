"""F8L304: an entry of the ignore list covers quantized modules for readers that compare it in another way."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.listed import PLAIN
from fp8load.rules.readings import Readers
from fp8load.rules.samples import LISTED, QUANTIZED

CHANNEL = (
    'config {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"targets": '
    '["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}}, "ignore": ["re:visual.*"]}}\n'
)
GATE = QUANTIZED.replace("down_proj", "gate_proj") + "model.layers.0.mlp.gate.weight  BF16  [8, 256]\n"


def check(context: Context) -> Iterator[Problem]:
    """Every entry under all six readings. One that already is a module's full name cannot be written better: a note.

    What an entry covers in its own dialect and is quantized is F8L303.
    """
    checkpoint = context.checkpoint
    fmt = checkpoint.format
    entries = list(dict.fromkeys(fmt.ignore))
    if not entries:
        return
    quantized = [name for name, info in checkpoint.lowered.modules.items() if info.scheme is not None]
    readers, full_names = Readers(quantized), checkpoint.stored.names.modules
    for entry in entries:
        reaches = list(readers.reach(entry, fmt.covers))
        if not reaches:
            continue
        most = max(reaches, key=lambda reach: reach.num_modules)
        is_part = PLAIN.fullmatch(entry) is not None and entry not in full_names
        is_missed = entry.startswith("re:") and not checkpoint.stored.names.covered(entry, fmt)
        yield Problem(
            code="F8L304", message="an entry of the ignore list misses modules that it would cover anywhere in a name, "
            "and that are quantized" if is_missed
            else "an entry of the ignore list covers quantized modules under another reading",
            module=entry, file=fmt.place, expected=f"no quantized module, as {fmt.name} reads it",
            got=f"{most.num_modules:,} by {', '.join(reach.reading for reach in reaches)}, {most.example} the first",
            severity=Severity.WARNING if is_part or is_missed else Severity.INFO, refuses=False,
            hint=_hint(is_part=is_part, is_missed=is_missed),
        )  # fmt: skip


def _hint(*, is_part: bool, is_missed: bool) -> str:
    if is_missed:  # llm-compressor#2597: the publisher's own tool compares from the start of a name
        return "if they were meant, they were quantized by mistake: begin the expression with .* and export again"
    if is_part:
        return "write the full name of each module that is meant"
    return "it is right for readers of this dialect; others leave these modules unquantized"


RULE = Rule(
    code="F8L304",
    name="ignore-pattern-too-wide",
    level="headers",
    severity=Severity.WARNING,
    what="No entry of the ignore list covers a quantized module as an exact name, as a dotted suffix, as a substring, "
         "as a shell glob, or as a regular expression from the start or anywhere. Of entries that are full names of "
         "modules, and of patterns, it is only noted, unless the pattern covers nothing else.",
    why='"mlp.gate" is meant for the router. A reader that looks for it anywhere in a name leaves mlp.gate_proj '
        "unquantized too, and casts its codes.",
    fix="List the full names of the modules.",
    check=check,
    examples=(
        Example(title='"mlp.gate" is a part of mlp.gate_proj', count=1,
                skeleton=LISTED.replace("lm_head", "mlp.gate") + GATE),
        Example(title="the router's full name, which begins that of gate_proj", count=1,
                skeleton=LISTED.replace("lm_head", "model.layers.0.mlp.gate") + GATE),
        Example(title="an expression that lacks the prefix of what is quantized", count=1,
                skeleton=CHANNEL + "model.visual.merger.weight F8_E4M3 [64, 64]\n"
                "model.visual.merger.weight_scale F32 [64, 1]\n"),
        Example(title="no reading reaches a quantized module", count=0,
                skeleton=LISTED.replace("lm_head", "mlp.gate") + GATE.replace("gate_proj", "down_proj")),
    ),
)  # fmt: skip
