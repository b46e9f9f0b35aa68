"""F8L113: the quantization configuration has a key that this version does not know."""

from __future__ import annotations

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED


def check(ctx: Context) -> Iterator[Problem]:
    """One problem for each key that was kept and not understood."""
    fmt = ctx.checkpoint.format
    for key in fmt.unknown_keys:
        yield Problem(
            code="F8L113",
            message=f"the configuration has a key that is not known: {key}",
            file=fmt.place,
            expected=f"the keys of format {fmt.name}",
            got=key,
            severity=Severity.INFO,
            refuses=False,
            hint="it may change how tensors are stored; if it does, please report it",
        )


RULE = Rule(
    code="F8L113",
    name="unknown-config-key",
    level="headers",
    severity=Severity.INFO,
    what="Every key of the quantization configuration is one that its format knows.",
    why="A key that nobody reads may say how scales or weights are stored.",
    fix="Nothing, if the key only records how the checkpoint was made.",
    check=check,
    examples=(
        Example(
            title="a key from the future",
            skeleton=BLOCK.replace('"quant_method"', '"twist": 1, "quant_method"') + QUANTIZED,
            count=1,
        ),
        Example(title="known keys", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)
