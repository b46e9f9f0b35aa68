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
    "base", "cache_scales", "decoder", "delta_attention", "expected", "find", "layer_kinds", "model", "numbers",
    "predictor", "published", "readable", "shared", "state_space",
})  # fmt: skip

_HEADLESS = ("Model", "ForSequenceClassification", "ForTokenClassification")
"""How transformers' classes end that have no output head: Qwen3Model, LlamaForSequenceClassification."""


@cache
def families() -> tuple[Arch, ...]:
    """Every family file in this folder, and those of outside packages (entry points "fp8load.archs")."""
    names = sorted(info.name for info in pkgutil.iter_modules(fp8load.archs.__path__))
    modules = [importlib.import_module(f"fp8load.archs.{name}") for name in names if name not in _HELPERS]
    return (*(module.ARCH for module in modules), *plugins("fp8load.archs", Arch))


_DRAFT = "eagle"
"""A part of the classes of draft models, LlamaForCausalLMEagle3: they have the model_type of the model that they guess
for, and other tensors."""


def classes(document: Mapping[str, Any]) -> list[str]:
    """The classes that config.json names."""
    listed = document.get("architectures")
    return [kind for kind in listed if isinstance(kind, str)] if isinstance(listed, list) else []


def find_arch(config: Mapping[str, Any]) -> Arch | None:
    """The family of config.json's model_type, or None: an unknown family is planned by generic rules."""
    model_type = config.get("model_type")
    if any(_DRAFT in kind.lower() for kind in classes(config)):
        return None
    return next((arch for arch in families() if model_type in arch.model_types), None)


def find_family(index: Index) -> Arch | None:
    """The family of a checkpoint: one that knows its files, else that of config.json's model_type.

    config.json beside tensors with Mistral's native names describes another copy of the weights.
    """
    found = next((arch for arch in families() if arch.detect is not None and arch.detect(index)), None)
    return found if found is not None or is_native(index.tensors) else find_arch(index.config)


def find_prefix(arch: Arch, names: Collection[str]) -> tuple[str, str]:
    """What stands before the family's names in this checkpoint, and what the decoder is called.

    The first candidates where none is seen. A model without a head, one of embeddings, is often saved by itself: then
    nothing stands before the names of the decoder, and it is called "".
    """
    candidates = [*((prefix, decoder) for decoder in arch.decoders for prefix in arch.prefixes), ("", "")]
    starts = {found: f"{found[0]}{in_decoder(arch.layers, found[1])}." for found in candidates}
    return next((found for found, start in starts.items() if any(n.startswith(start) for n in names)), candidates[0])


def in_decoder(name: str, decoder: str) -> str:
    """A family's name where the decoder is called `decoder`; names beside it, "lm_head", stay as they are."""
    first, dot, rest = name.partition(".")
    if first != "model" or not dot:
        return name
    return f"{decoder}.{rest}" if decoder else rest


def is_headless(document: Mapping[str, Any], decoder: str) -> bool:
    """Whether the model has no output head: it gives embeddings, or has a classifier in the head's place.

    The classes that config.json names say so, or that the decoder was saved by itself.
    """
    kinds = classes(document)
    return not decoder or (bool(kinds) and all(kind.endswith(_HEADLESS) for kind in kinds))
