"""F8L201: an FP8 weight has no scale."""

from collections.abc import Iterator
from dataclasses import replace

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.mtp import MtpNames
from fp8load.rules.raw import are_raw
from fp8load.rules.samples import BLOCK, QUANTIZED

JOINING = frozenset({"e_proj", "h_proj", "eh_proj"})
"""Matrices that join a layer for multi-token prediction with the model. Published repacks lost their scales
(DeepSeek-V4-Flash-FP8, miles#1641). The model runs without that layer, so `verify` reports and does not fail; loading
still wants to be told (`allow_unscaled`)."""

DRAFT = "mtp.0.e_proj.weight             F8_E4M3  [256, 256]\n"


def check(context: Context) -> Iterator[Problem]:
    """What lowering found; a warning where it is a joining matrix of a layer that only guesses further tokens, and
    where no weight has a scale, and no configuration says that any should: raw casts look like this."""
    names = MtpNames(context.checkpoint.index.config)
    for problem in context.problems("F8L201"):
        module = problem.tensor.rpartition(".")[0]
        joins = module.rpartition(".")[2] in JOINING and names.layer(module) is not None
        yield replace(problem, severity=Severity.WARNING) if joins else problem

    for problem in context.problems("F8L101") if are_raw(context) else ():
        yield replace(
            problem, code="F8L201", severity=Severity.WARNING, message="weights are FP8 and nothing has a scale: raw "
            "casts, or every scale was lost", expected="a scale for each and a configuration, unless these are raw "
            "casts", hint="say that they are with --allow-unscaled, or allow_unscaled=True; else export again, with "
            "scales",
        )  # fmt: skip


RULE = Rule(
    code="F8L201",
    name="fp8-weight-without-scale",
    level="headers",
    severity=Severity.ERROR,
    what="Every weight stored in an 8-bit float has the scale that its format requires, and what else its layer has in "
         "other layers: a factor of the input, a residual. Where nothing has one it is a warning: raw casts look so.",
    why="Loaders start scales at ones or at uninitialised memory; the model runs and is wrong.",
    fix="Export again; or, if the module was meant to stay in BF16, store it so and list it in the ignore list. A file "
        "of raw casts has no scales: open it with allow_unscaled=True, or --allow-unscaled.",
    check=check,
    examples=(
        Example(title="no weight_scale_inv", count=1,
                skeleton=BLOCK + "model.layers.0.mlp.down_proj.weight  F8_E4M3  [256, 256]\n"),
        Example(title="a matrix of a draft layer, which is a warning", count=1, skeleton=BLOCK + QUANTIZED + DRAFT),
        Example(title="no weight has one, and no configuration: a warning", count=2,
                skeleton="blocks.{0..1}.mlp.weight F8_E4M3 [64, 64]\n"),
        Example(title="with it", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)  # fmt: skip
