"""F8L105: a weight or scale is not of the dtype that the configuration says, or no group claims a quantized module."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fp8load.errors import Problem, Severity
from fp8load.formats.locate import configurations
from fp8load.formats.match import exact_or_regex
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.modelopt_lists import READS_ALGORITHMS, differences
from fp8load.rules.samples import BLOCK, NVFP4_GATE_UP, QUANTIZED
from fp8load.rules.targets import engines

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint

_GROUPS = (
    'config {"quantization_config": {"quant_method": "compressed-tensors"%s, "config_groups": {"group_0": {"targets": '
    '["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}%s}}}\n'
)
_CHANNEL = "m.down_proj.weight F8_E4M3 [64, 64]\nm.down_proj.weight_scale F32 [64, 1]\n"
_NAMED = ', "%s": {"targets": ["re:.*down_proj"], "weights": {"num_bits": 8, "type": "float", "strategy": "%s"}}'

PARTS_AND_CLASS = (
    'config {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {'
    '"group_0": {"targets": ["m.gate_proj", "m.up_proj"], "weights": {"num_bits": 8, "type": "float", '
    '"strategy": "channel"}}, '
    '"group_1": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": "tensor"}}}}}\n'
    "m.{gate,up}_proj.weight F8_E4M3 [64, 64]\nm.{gate,up}_proj.weight_scale F32 [64, 1]\n"
    "m.down_proj.weight F8_E4M3 [64, 64]\nm.down_proj.weight_scale F32 [1]\n"
)
"""A group for the parts of a fused layer, and one for all other linear layers."""

_MODELOPT = (
    'config {"quantization_config": {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "ignore": [], '
    '"quantized_layers": {"model.layers.0.mlp": {"quant_algo": "NVFP4", "group_size": 16}}, "config_groups": {'
    '"group_0": {"targets": ["model.layers.0.mlp"], "weights": {"num_bits": 4, "type": "float", "group_size": %d}}}}}\n'
)


def check(context: Context) -> Iterator[Problem]:
    """What lowering found; what engines that were named take otherwise; and what readers of compressed-tensors take in
    different ways."""
    checkpoint = context.checkpoint
    if checkpoint.format.name != "compressed_tensors":
        yield from context.problems("F8L105")
        yield from engines("F8L105")(context)
        yield from _twice_in_modelopt(checkpoint)
        return
    located = next(configurations(checkpoint.index))
    yield from (_claimed_twice(problem, located.document["config_groups"]) for problem in context.problems("F8L105"))
    yield from engines("F8L105")(context)
    status, groups = located.document.get("quantization_status"), located.document["config_groups"]
    if status not in (None, "compressed"):
        yield _note("quantization_status is not that of stored weights", located.place, "compressed", str(status),
                    "transformers 5 then leaves out the scales of such a checkpoint")  # fmt: skip
    named = [name for name in groups if re.fullmatch(r"group_\d+", name) is None]
    if named:
        yield _note("a config group has a name of its own", located.place, "group_0, group_1, ...", ", ".join(named),
                    "TensorRT-LLM looks for group_0")  # fmt: skip
    yield from _overlap(checkpoint, located.place, groups)


def _named(groups: Mapping[str, Any]) -> Mapping[str, list[str]]:
    """Targets of each group that name modules; classes such as Linear name none."""
    return {name: [t for t in group["targets"] if t != "Linear"] for name, group in groups.items()}


def _claims(module: str, targets: Mapping[str, list[str]], groups: Mapping[str, Any]) -> list[str]:
    """The groups that name a module, where they are several and have other weights; else none."""
    claims = [name for name, entries in targets.items() if any(exact_or_regex(entry, module) for entry in entries)]
    return claims if any(groups[name].get("weights") != groups[claims[0]].get("weights") for name in claims) else []


def _claimed_twice(problem: Problem, groups: Mapping[str, Any]) -> Problem:
    """What lowering found of the group that it took, with the other one that names the module, too."""
    claims = _claims(problem.module or problem.tensor.rpartition(".")[0], _named(groups), groups)
    if not claims:
        return problem
    return replace(
        problem, message="two config groups claim a module, and the one that is taken does not fit what is stored",
        got=f"{problem.got}, claimed by {' and '.join(claims)}",
        hint="narrow the targets, so that one group claims each module: readers take the first, or the last",
    )  # fmt: skip


def _overlap(checkpoint: "Checkpoint", place: str, groups: Mapping[str, Any]) -> Iterator[Problem]:
    """Quantized modules that two groups name, each with other weights."""
    targets = _named(groups)
    if sum(map(bool, targets.values())) < 2:
        return
    for module, info in checkpoint.lowered.modules.items():
        claims = _claims(module, targets, groups) if info.scheme is not None else []
        if claims:
            hint = "readers take the first, or the last: the stored dtypes say which is right"
            note = _note("two config groups claim a module", place, "one group", " and ".join(claims), hint)
            yield replace(note, module=module)


def _twice_in_modelopt(checkpoint: "Checkpoint") -> Iterator[Problem]:
    """ModelOpt says the same in two ways. vLLM and SGLang read algorithms, so what the groups lack is noted, and what
    they say otherwise is a warning; what `quantized_layers` lacks, lowering has found."""
    located = next(configurations(checkpoint.index), None)
    if located is None or checkpoint.format.name not in READS_ALGORITHMS:
        return
    for module, group, algorithm, in_group in differences(located):
        if group is None:
            note = _note("no config group claims what quantized_layers lists", located.place,
                         "a target in a group, too", "none",
                         "readers of config_groups take it for unquantized: add it to its group's targets")  # fmt: skip
            yield replace(note, module=module)
        else:
            note = _note("a config group says something else than the algorithm", located.place,
                         f"{algorithm}, as {'quantized_layers' if module else 'quant_algo'} says",
                         f"{in_group}, in config_groups.{group}",
                         "readers take one of the two: export again, or correct the group")  # fmt: skip
            yield replace(note, module=module, severity=Severity.WARNING)


def _note(message: str, place: str, expected: str, got: str, hint: str) -> Problem:
    return Problem(code="F8L105", message=message, file=place, expected=expected, got=got, hint=hint,
                   severity=Severity.INFO, refuses=False)  # fmt: skip


RULE = Rule(
    code="F8L105",
    name="config-group-contradiction",
    level="headers",
    severity=Severity.ERROR,
    what="The group of the configuration that claims a module agrees with the dtypes of its weight and scales. Of "
         "compressed-tensors are noted: a status other than compressed, groups with names of their own, and two groups "
         "that claim a module; of ModelOpt, modules of `quantized_layers` that are in no group. Its groups repeat each "
         "algorithm in numbers: others than the algorithm's are a warning. With --engine, fused layers that the engine "
         "gives another group than their parts have are an error.",
    why="Engines choose the kernel by the configuration. A weight of another dtype is read as if it had that one.",
    fix="Correct the group in config.json, or export again.",
    check=check,
    examples=(
        Example(title="e4m3 is declared, e5m2 is stored", count=1,
                skeleton=BLOCK + QUANTIZED.replace("F8_E4M3", "F8_E5M2")),
        Example(title='quantization_status "frozen"', count=1,
                skeleton=_GROUPS % (', "quantization_status": "frozen"', "") + _CHANNEL),
        Example(title="two groups claim a module", count=1,
                skeleton=_GROUPS.replace('["Linear"]', '["re:m.*"]') % ("", _NAMED % ("group_1", "tensor"))
                + _CHANNEL),
        Example(title="two groups claim a module, and the first one does not fit", count=1,
                skeleton=_GROUPS.replace('["Linear"]', '["re:m.*"]') % ("", _NAMED % ("group_1", "tensor"))
                + _CHANNEL.replace("F8_E4M3", "I8")),
        Example(title="a group called FP8_DYNAMIC", count=1,
                skeleton=_GROUPS % ("", _NAMED % ("FP8_DYNAMIC", "channel")) + _CHANNEL),
        Example(title="the parts of a fused layer are named, the class is another group's", count=2,
                skeleton=PARTS_AND_CLASS, engine="vllm@0.11"),
        Example(title="in vLLM 0.33, which looks for the parts first", count=0, skeleton=PARTS_AND_CLASS,
                engine="vllm@0.33"),
        Example(title="a group of 32 for layers in NVFP4 with 16", skeleton=_MODELOPT % 32 + NVFP4_GATE_UP, count=1),
        Example(title="a group of 16 for them", skeleton=_MODELOPT % 16 + NVFP4_GATE_UP, count=0),
        Example(title="one group", skeleton=_GROUPS % ("", "") + _CHANNEL, count=0),
        Example(title="as declared", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)  # fmt: skip
