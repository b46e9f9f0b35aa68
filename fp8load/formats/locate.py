"""Where a quantization configuration may lie, and which format it is of.

The places, those that count first before the others:

    1  the weights' own file: `__metadata__`, marker tensors (ComfyUI; `fp8load.formats.inside`)
    2  params.json, where the tensors have Mistral's native names, which only it describes
    3  config.json: quantization_config, compression_config, text_config.quantization_config
    4  hf_quant_config.json, quantization_config.json, quanto_qmap.json, quant_model_description.json

    5  torchao's entries in `__metadata__`, where no other place has anything: a quantization_config says it shorter
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from types import ModuleType
from typing import Any, cast

import fp8load.formats
from fp8load.errors import ConfigError, Problem
from fp8load.formats.base import CheckpointFormat, FormatModule, Located
from fp8load.formats.inside import inside, torchao_metadata
from fp8load.formats.mistral_native import PLACE, is_native
from fp8load.index.index import Index
from fp8load.plugins import plugins

QUANTO = "quanto_qmap.json"
BESIDE = ("hf_quant_config.json", "quantization_config.json", "quant_model_description.json", QUANTO)
"""Files beside config.json that are a quantization configuration by themselves."""

FIRST = "config.json is read first, as by transformers, vLLM and SGLang"
NATIVE = "the tensors have Mistral's native names, which params.json describes and config.json does not"
ONLY = "config.json has no quantization configuration"

_HELPERS = frozenset(
    {
        "aliases",
        "base",
        "compressed_tensors_keys",
        "contradictions",
        "document",
        "grouping",
        "in_memory",
        "inside",
        "kv_names",
        "locate",
        "logical",
        "lower",
        "lowered",
        "match",
        "microscaling",
        "missing",
        "modelopt_algos",
        "quark_operands",
        "recipe",
        "siblings",
        "stacked",
        "transforms",
        "unquantized",
        "uniform",
        "unscaled",
    }
)


@cache
def format_modules() -> tuple[FormatModule, ...]:
    """Every format file in this folder, and the modules of outside packages (entry points "fp8load.formats")."""
    names = sorted(info.name for info in pkgutil.iter_modules(fp8load.formats.__path__))
    modules = [importlib.import_module(f"fp8load.formats.{name}") for name in names if name not in _HELPERS]
    return cast("tuple[FormatModule, ...]", (*modules, *plugins("fp8load.formats", ModuleType)))


def configurations(index: Index) -> Iterator[Located]:
    """Every quantization configuration of a checkpoint, the one that counts first.

    What belongs to a second copy of the weights under other names is left out: params.json beside tensors with
    transformers' names, config.json beside native ones. Raises `ConfigError` for one that is there and is no object.
    """
    yield from inside(index)
    if is_native(index.tensors) and "params.json" in index.configs:
        yield from _native(index.configs)
    else:
        is_said = False
        for located in locate(index.configs):
            is_said = True
            yield located
        if not is_said:
            yield from torchao_metadata(index)


def _native(configs: Mapping[str, Mapping[str, Any]]) -> Iterator[Located]:
    document = configs.get("params.json", {}).get("quantization")
    if document is not None:
        yield _located(PLACE, document, NATIVE)


def locate(configs: Mapping[str, Mapping[str, Any]]) -> Iterator[Located]:
    """The configurations in config.json and in the files beside it.

    config.json counts before the others, because transformers, vLLM and SGLang read it first. Raises `ConfigError` for
    one that is there and is no object.
    """
    config = configs.get("config.json", {})
    text = config.get("text_config")
    candidates = [("config.json quantization_config", config.get("quantization_config")),
                  ("config.json compression_config", config.get("compression_config"))]  # fmt: skip
    if isinstance(text, Mapping):
        candidates.append(("config.json text_config.quantization_config", text.get("quantization_config")))
    candidates += [(file, configs.get(file)) for file in BESIDE]
    for place, document in candidates:
        if document is not None:
            why = FIRST if place.startswith("config.json") else ONLY
            yield replace(_located(place, document, why), files=configs)


def _located(place: str, document: Any, why: str) -> Located:
    if not isinstance(document, Mapping):
        raise ConfigError(Problem(code="F8L110", message="the quantization configuration is no object", file=place,
                                  expected="a JSON object", got=repr(document)[:80],
                                  hint="put the object of the export back, or remove the key"))  # fmt: skip
    return Located(place=place, document=document, why=why)


def read_format(located: Located) -> CheckpointFormat:
    """Parse a configuration by the first format that recognises it. Raises `ConfigError` when none does."""
    for module in format_modules():
        if module.detect(located.seen):
            return module.parse(located)
    known = ", ".join(module.NAME for module in format_modules())
    problem = Problem(
        code="F8L110",
        message="the quantization method is not known",
        file=located.place,
        expected=f"one of {known}",
        got=f"quant_method {located.document.get('quant_method')!r}",
        hint="`fp8load inspect --skeleton` still lists what the files hold",
    )
    raise ConfigError(problem)
