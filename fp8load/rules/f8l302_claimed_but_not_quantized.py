"""F8L302: the configuration quantizes a module that is stored in 16 bits."""

from collections.abc import Iterator
from dataclasses import replace

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.claims import empty_claims
from fp8load.rules.samples import LISTED, QUANTIZED


def check(context: Context) -> Iterator[Problem]:
    """What lowering found, unless nothing at all is quantized: then F8L102 names the same weights. An entry of the
    ignore list is no cure for a part of a layer that engines fuse."""
    found = list(context.problems("F8L302"))
    claims = empty_claims(context.checkpoint) if found else {}
    said = {weight.name for weights in claims.values() for weight in weights}
    split = context.checkpoint.stored.beside_quantized if found else frozenset()
    for problem in found:
        if problem.tensor not in said:
            yield _of_a_split_layer(problem) if problem.module in split else problem


def _of_a_split_layer(problem: Problem) -> Problem:
    return replace(
        problem, message="the configuration quantizes a part of a fused layer that is stored unquantized",
        hint="quantize it as the others are, or dequantize them and add all to the ignore list",
    )  # fmt: skip


RULE = Rule(
    code="F8L302",
    name="claimed-but-not-quantized",
    level="headers",
    severity=Severity.ERROR,
    what="A module that the configuration claims, by a target or by not listing it in its ignore list, is quantized.",
    why="An engine that builds an FP8 layer from the configuration finds no scale for it, and runs without one.",
    fix="Add the module to the ignore list; a part of a layer that engines fuse has to be quantized as the others are.",
    check=check,
    examples=(
        Example(title="up_proj is BF16 and not listed", count=1,
                skeleton=LISTED + QUANTIZED + "model.layers.0.mlp.up_proj.weight  BF16  [256, 256]\n"),
        Example(title="lm_head is BF16 and listed", count=0,
                skeleton=LISTED + QUANTIZED + "lm_head.weight  BF16  [1024, 256]\n"),
    ),
)  # fmt: skip
