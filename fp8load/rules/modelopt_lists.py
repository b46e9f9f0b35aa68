"""ModelOpt's two descriptions of layers in one configuration: algorithms by name, and `config_groups`.

Source: Model-Optimizer `modelopt/torch/export/convert_hf_config.py`. vLLM and SGLang read `quant_algo`, of all layers
or of each entry of `quantized_layers`; `config_groups` repeats it in compressed-tensors' words (`num_bits`, `type`,
`group_size`, `strategy`) for other readers, and as `quant_algo` where those have no word for an algorithm. Where an
entry states no group, the exporter writes 128 for NVFP4_AWQ and 16 for W4A8_NVFP4_FP8, whatever the tensors have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fp8load.dtypes import DType
from fp8load.formats.base import Located
from fp8load.formats.match import first_cover, glob_or_prefix
from fp8load.formats.modelopt_algos import MIXED, Algo, scheme_of
from fp8load.scheme import Granularity, PerBlock, PerChannel, PerGroup, PerTensor

_STRATEGY = {PerTensor: "tensor", PerChannel: "channel", PerBlock: "block"}
"""compressed-tensors' words. Groups have two: "group", and "tensor_group" under a global scale."""

READS_ALGORITHMS = frozenset({"modelopt", "modelopt_on_fp8", "deepseek_v4"})
"""Formats that have read the algorithms, so that every one that is named is known."""

CLASS = "Linear"
"""A target that stands for every linear layer which no other target names."""

SAME_GROUP = frozenset({"NVFP4", "MXFP8"})
"""Algorithms whose group the exporter writes as it is where no entry states it."""


class Difference(NamedTuple):
    """A layer ("" for all of them) of which the lists say different things, and what each says; `group` is None where
    no group has the layer."""

    module: str
    group: str | None
    algorithm: str
    in_group: str


def differences(located: Located) -> Iterator[Difference]:
    """Layers that the two lists describe differently, of a configuration of one of `READS_ALGORITHMS`."""
    document = located.document
    groups = {name: group for name, group in _mapping(document.get("config_groups")).items()
              if isinstance(group, Mapping)}  # fmt: skip
    algo = str(document.get("quant_algo") or "").upper()
    if algo == MIXED:
        yield from _by_layer(located, groups)
    elif algo:
        said = {"quant_algo": algo, "group_size": document.get("group_size")}
        yield from (found for name, group in groups.items() for found in _compared(located, "", said, name, group))


def _by_layer(located: Located, groups: Mapping[str, Mapping[str, Any]]) -> Iterator[Difference]:
    targets = {target: name for name, group in groups.items() for target in _names(group.get("targets"))}
    if not targets:
        return
    find = first_cover(tuple(targets), glob_or_prefix)
    rest = CLASS if CLASS in targets else None
    for module, entry in _mapping(located.document.get("quantized_layers")).items():
        target = find(module) or rest
        if target is None:
            yield Difference(module, None, "", "")
        else:
            yield from _compared(located, module, entry, targets[target], groups[targets[target]])


def _compared(
    located: Located, module: str, entry: Mapping[str, Any], name: str, group: Mapping[str, Any]
) -> Iterator[Difference]:
    """What differs of one layer: the first of the algorithm's name, and the numbers that both state."""
    algo = str(entry.get("quant_algo") or "").upper()
    stated = group.get("quant_algo")
    if stated is not None and str(stated).upper() != algo:
        yield Difference(module, name, algo, f"quant_algo {stated}")
        return
    weights = _mapping(group.get("weights"))
    scheme = scheme_of(Algo(algo, entry.get("group_size")), located, module=module).weight
    meant = {
        "num_bits": scheme.dtype.bits,
        "type": "int" if scheme.dtype in (DType.I4, DType.I8) else "float",
        "group_size": _group(algo, entry, scheme.granularity),
        "strategy": _STRATEGY.get(type(scheme.granularity)),
    }
    for key, number in meant.items():
        said = weights.get(key)
        if number is not None and said is not None and said != number and str(said) != str(number):
            yield Difference(module, name, f"{algo}, {key} {number}", f"{key} {said}")
            return


def _group(algo: str, entry: Mapping[str, Any], granularity: Granularity) -> object:
    """The group that is stated, or that the algorithm has for both; None where nothing says so."""
    own = granularity.cols if algo in SAME_GROUP and isinstance(granularity, PerGroup) else None
    return entry.get("group_size") or own


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _names(value: object) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
