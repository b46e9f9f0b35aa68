"""Where a quantization configuration may lie, and which format it is of."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache
from types import ModuleType
from typing import Any, cast

import fp8load.formats
from fp8load.errors import ConfigError, Problem
from fp8load.formats.base import CheckpointFormat, FormatModule, Located
from fp8load.plugins import plugins

_HELPERS = frozenset({"base", "contradictions", "document", "locate", "lower", "match", "unquantized", "uniform"})


@cache
def format_modules() -> tuple[FormatModule, ...]:
    """Every format file in this folder, and the modules of outside packages (entry points "fp8load.formats")."""
    names = sorted(info.name for info in pkgutil.iter_modules(fp8load.formats.__path__))
    modules = [importlib.import_module(f"fp8load.formats.{name}") for name in names if name not in _HELPERS]
    return cast("tuple[FormatModule, ...]", (*modules, *plugins("fp8load.formats", ModuleType)))


def locate(configs: Mapping[str, Mapping[str, Any]]) -> Iterator[Located]:
    """Every quantization configuration of a checkpoint, the one that counts first.

    config.json counts before the files beside it, because transformers, vLLM and SGLang read it first.
    """
    config = configs.get("config.json", {})
    for key in ("quantization_config", "compression_config"):
        if isinstance(config.get(key), Mapping):
            yield Located(place=f"config.json {key}", document=config[key])
    text = config.get("text_config")
    if isinstance(text, Mapping) and isinstance(text.get("quantization_config"), Mapping):
        yield Located(place="config.json text_config.quantization_config", document=text["quantization_config"])
    for file in ("hf_quant_config.json", "quantization_config.json"):
        if file in configs:
            yield Located(place=file, document=configs[file])


def read_format(located: Located) -> CheckpointFormat:
    """Parse a configuration by the first format that recognises it. Raises `ConfigError` when none does."""
    for module in format_modules():
        if module.detect(located.document):
            return module.parse(located)
    known = ", ".join(module.NAME for module in format_modules())
    problem = Problem(
        code="F8L110",
        message="the quantization method is not known",
        file=located.place,
        expected=f"one of {known}",
        got=f"quant_method {located.document.get('quant_method')!r}",
        hint="`fp8load inspect --tensors` still lists what the files hold",
    )
    raise ConfigError(problem)
