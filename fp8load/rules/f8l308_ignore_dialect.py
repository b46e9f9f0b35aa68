"""F8L308: an entry of the ignore list is written in another dialect than the method reads, or is no full name."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.formats.base import CheckpointFormat
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.listed import PLAIN, may_be_absent, reads_globs
from fp8load.rules.samples import LISTED, QUANTIZED

ROUTER = "model.layers.0.mlp.gate.weight  BF16  [8, 256]\n"


def check(context: Context) -> Iterator[Problem]:
    """Globs and expressions where the method knows none; and names that are cut short, where they cover something."""
    fmt = context.checkpoint.format
    entries = list(dict.fromkeys(fmt.ignore))
    if not entries:
        return
    candidates = context.checkpoint.stored.names
    for entry in entries:
        if entry.startswith("re:"):
            wrong = "" if _reads_expressions(fmt) else "a regular expression, and the method reads names"
        elif PLAIN.fullmatch(entry) is None:
            wrong = "" if reads_globs(fmt) else "a pattern, and the method takes it for a name"
        else:
            is_full = any(map(candidates.holds, (entry, entry.removeprefix("model."), f"model.{entry}")))
            is_short = not is_full and not may_be_absent(entry) and candidates.covered(entry, fmt)
            wrong = "a part of a name, and some readers compare whole names" if is_short else ""
        if wrong:
            yield Problem(
                code="F8L308", message=f"an entry of the ignore list is {wrong}", module=entry, file=fmt.place,
                expected="the full name of a module", got=entry, severity=Severity.INFO, refuses=False,
                hint="write the full name of each module that is meant",
            )  # fmt: skip


def _reads_expressions(fmt: CheckpointFormat) -> bool:
    return fmt.covers("re:a.b+.c", "a.bb.c")


RULE = Rule(
    code="F8L308",
    name="ignore-dialect",
    level="headers",
    severity=Severity.INFO,
    what="Entries of the ignore list are full names, globs only where the method reads globs, and `re:` only where it "
         "reads regular expressions.",
    why='"*.mlp.gate" under quant_method fp8 is compared letter by letter, and covers nothing. A name that is cut '
        "short is found by readers that search, and missed by those that compare.",
    fix="Write the full names.",
    check=check,
    examples=(
        Example(title="a glob under fp8", count=1,
                skeleton=LISTED.replace("lm_head", "*.mlp.gate") + QUANTIZED + ROUTER),
        Example(title="a name cut short", count=1,
                skeleton=LISTED.replace("lm_head", "mlp.gate") + QUANTIZED + ROUTER),
        Example(title="the full name", count=0,
                skeleton=LISTED.replace("lm_head", "model.layers.0.mlp.gate") + QUANTIZED + ROUTER),
        Example(title="a module that holds others", count=0,
                skeleton=LISTED.replace("lm_head", "model.visual")
                + QUANTIZED + "model.visual.blocks.0.fc1.weight  BF16  [8, 256]\n"),
    ),
)  # fmt: skip
