"""Which family a checkpoint is of."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

import fp8load.archs
from fp8load.archs.base import Arch
from fp8load.formats.mistral_native import is_native
from fp8load.index.index import Index
from fp8load.plugins import plugins

_HELPERS = frozenset({
    "base", "decoder", "delta_attention", "expected", "find", "layer_kinds", "model", "numbers", "predictor",
    "published", "shared", "state_space",
})  # fmt: skip


@cache
def families() -> tuple[Arch, ...]:
    """Every family file in this folder, and those of outside packages (entry points "fp8load.archs")."""
    names = sorted(info.name for info in pkgutil.iter_modules(fp8load.archs.__path__))
    modules = [importlib.import_module(f"fp8load.archs.{name}") for name in names if name not in _HELPERS]
    return (*(module.ARCH for module in modules), *plugins("fp8load.archs", Arch))


def find_arch(config: Mapping[str, Any]) -> Arch | None:
    """The family of config.json's model_type, or None: an unknown family is planned by generic rules."""
    model_type = config.get("model_type")
    return next((arch for arch in families() if model_type in arch.model_types), None)


def find_family(index: Index) -> Arch | None:
    """The family of a checkpoint: one that knows its files, else that of config.json's model_type.

    config.json beside tensors with Mistral's native names describes another copy of the weights.
    """
    found = next((arch for arch in families() if arch.detect is not None and arch.detect(index)), None)
    return found if found is not None or is_native(index.tensors) else find_arch(index.config)


def find_prefix(arch: Arch, names: Collection[str]) -> tuple[str, str]:
    """What stands before the family's names in this checkpoint, and what the decoder is called.

    The first candidates where none is seen.
    """
    candidates = [(prefix, decoder) for decoder in arch.decoders for prefix in arch.prefixes]
    starts = {found: f"{found[0]}{in_decoder(arch.layers, found[1])}." for found in candidates}
    return next((found for found, start in starts.items() if any(n.startswith(start) for n in names)), candidates[0])


def in_decoder(name: str, decoder: str) -> str:
    """A family's name where the decoder is called `decoder`; names beside it, "lm_head", stay as they are."""
    first, dot, rest = name.partition(".")
    return f"{decoder}{dot}{rest}" if first == "model" and dot else name
