"""F8L103: two quantization configurations of one checkpoint say different things."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fp8load.errors import Fp8LoadError, Problem, Severity
from fp8load.formats.base import CheckpointFormat, Claim, Claimed, Located
from fp8load.formats.locate import configurations, read_format
from fp8load.formats.recipe import located_recipe
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import QUANTIZED


def check(context: Context) -> Iterator[Problem]:
    """Every further configuration, compared with the one in use on each module that has a weight."""
    checkpoint = context.checkpoint
    yield from context.problems("F8L103")
    if checkpoint.format.name == "unquantized":
        return
    places = configurations(checkpoint.index)
    used = next(places)
    try:
        others = list(places)
    except Fp8LoadError as error:
        yield replace(error.problem, code="F8L103", severity=Severity.WARNING, refuses=False, hint=_hint(used))
        return
    for located in others:
        try:
            other = read_format(located)
        except Fp8LoadError as error:
            message = error.problem.message
            yield _problem(located.place, f"it can be read, like {used.place}", message, Severity.WARNING, used)
            continue
        yield from _compared(context, used, other, Severity.ERROR)
    recipe = located_recipe(used, checkpoint.index.configs) if checkpoint.format.name == "compressed_tensors" else None
    if recipe is not None:
        yield from _with_recipe(context, used, recipe)


def _with_recipe(context: Context, used: Located, recipe: Located) -> Iterator[Problem]:
    """What the recipe asked for against what was written. No engine reads a recipe: a warning, whatever it is. A cache
    that it does not speak of may have been calibrated by another tool."""
    try:
        asked = read_format(recipe)
    except Fp8LoadError as error:
        got = f"{error.problem.message}: {error.problem.got}"
        yield _problem(recipe.place, f"what {used.place} says", got, Severity.WARNING, used)
        return
    for problem in _compared(context, used, asked, Severity.WARNING):
        if asked.kv is not None or not problem.got.startswith("no KV-cache"):
            yield replace(
                problem,
                hint=f"engines read {used.place} only; the recipe is what was asked for: if the "
                "tensors are as it says, correct the configuration, else drop the recipe",
            )


def _compared(context: Context, chosen: Located, other: CheckpointFormat, severity: Severity) -> Iterator[Problem]:
    used = context.checkpoint.format
    for module, info in context.checkpoint.lowered.modules.items():
        claim = other.claim(module)
        if used.on_base and not isinstance(claim, Claimed):
            continue
        mine, theirs = _says(used.claim(module)), _says(claim)
        if info.scheme is not None and mine != theirs:
            problem = _problem(other.place, f"{mine}, by {used.place}", theirs, severity, chosen)
            yield replace(problem, module=module)
    mine, theirs = _cache(used), _cache(other)
    if mine != theirs:
        yield _problem(other.place, f"{mine}, by {used.place}", theirs, Severity.WARNING, chosen)


def _cache(fmt: CheckpointFormat) -> str:
    return "no KV-cache scheme" if fmt.kv is None else f"a KV-cache scheme of {fmt.kv.dtype}"


def _says(claim: Claim) -> str:
    """What a configuration says of a module, comparable across dialects; the text has the layout in the file."""
    return str(claim.scheme) if isinstance(claim, Claimed) else "not quantized"


def _problem(place: str, expected: str, got: str, severity: Severity, used: Located) -> Problem:
    return Problem(code="F8L103", message="two quantization configurations disagree", file=place, expected=expected,
                   got=got, severity=severity, refuses=False, hint=_hint(used))  # fmt: skip


def _hint(used: Located) -> str:
    return f"{used.place} is used: {used.why}; make the two agree, or remove one"


_STATIC = 'config {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": []}}\n'
_MODULE = QUANTIZED.replace("weight_scale_inv  F32      [2, 2]", "weight_scale      F32      []") + (
    "model.layers.0.mlp.down_proj.input_scale       F32      []\n"
)
_OTHER = 'file hf_quant_config.json {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "%s"}}\n'
_CHANNELS = (
    'config {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"targets": '
    '["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}, "input_activations": '
    '{"num_bits": 8, "type": "float", "strategy": "token", "dynamic": true}}}}}\n'
    "m.down_proj.weight F8_E4M3 [128, 128]\nm.down_proj.weight_scale F32 [128, 1]\n"
)
_RECIPE = (
    'file recipe.yaml {"default_stage": {"default_modifiers": {"QuantizationModifier": {"targets": ["Linear"], '
    '"ignore": ["lm_head"], "scheme": "%s"}}}}\n'
)

RULE = Rule(
    code="F8L103",
    name="config-pair-conflict",
    level="headers",
    severity=Severity.ERROR,
    what="Where a checkpoint has several quantization configurations, they say the same of every quantized module "
    "and of the KV cache. What the weights' own file says is used first, then config.json, then the files beside it. "
    "llm-compressor's recipe.yaml, which no engine reads, is a warning where it asks for something else.",
    why="Engines read different ones; each serves what its own file says.",
    fix="Keep one, or make them agree.",
    check=check,
    examples=(
        Example(title="two algorithms", skeleton=_STATIC + _OTHER % "FP8_PER_CHANNEL_PER_TOKEN" + _MODULE, count=1),
        Example(title="an FP8 cache in one of them", count=1,
                skeleton=_STATIC + (_OTHER % 'FP8", "kv_cache_quant_algo": "FP8') + _MODULE),
        Example(title="a recipe that asks for something else", count=1, skeleton=_CHANNELS + _RECIPE % "FP8_BLOCK"),
        Example(title="the recipe that was followed", count=0, skeleton=_CHANNELS + _RECIPE % "FP8_DYNAMIC"),
        Example(title="twice the same", skeleton=_STATIC + _OTHER % "FP8" + _MODULE, count=0),
    ),
)  # fmt: skip
