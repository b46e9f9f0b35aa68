"""F8L302: the configuration quantizes a module that is stored in 16 bits."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from fp8load.errors import Problem, Severity
from fp8load.formats.base import Ignored, Unclaimed
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.claims import empty_claims
from fp8load.rules.samples import LISTED, QUANTIZED

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint


def check(context: Context) -> Iterator[Problem]:
    """What lowering found, unless nothing at all is quantized: then F8L102 names the same weights. An entry of the
    ignore list is no cure for a part of a layer that engines fuse; one for the fused layer itself is read by some of
    them (F8L307)."""
    found = list(context.problems("F8L302"))
    claims = empty_claims(context.checkpoint) if found else {}
    said = {weight.name for weights in claims.values() for weight in weights}
    if not found:
        return
    split, listed = context.checkpoint.stored.beside_quantized, _listed_as_fused(context.checkpoint)
    for problem in found:
        if problem.tensor in said:
            continue
        if problem.module in split:
            yield _of_a_split_layer(problem)
        else:
            by = listed.get(problem.module)
            yield problem if by is None else _of_a_listed_layer(problem, by)


def _listed_as_fused(checkpoint: "Checkpoint") -> Mapping[str, str]:
    """Parts of fused layers -> the entry of the ignore list that covers the layer under its fused name."""
    found: dict[str, str] = {}
    for group in checkpoint.stored.fused:
        claim = Unclaimed() if group.fused_on_disk else checkpoint.format.claim(group.name)
        if isinstance(claim, Ignored):
            found.update((info.name, claim.by) for info in group.members)
    return found


def _of_a_listed_layer(problem: Problem, by: str) -> Problem:
    return replace(
        problem, message="a part of a fused layer is on the ignore list under the fused layer's name only",
        expected=f"an entry for it, too, beside {by!r}", severity=Severity.INFO,
        hint="readers that look up parts do not find the entry, as --engine tells: list the parts by their names",
    )  # fmt: skip


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
    what="A module that the configuration claims, by a target or by not listing it in its ignore list, is quantized. "
    "One that is listed under the name of the layer that engines make of it is noted.",
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
