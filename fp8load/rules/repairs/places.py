"""Where a configuration lies in its file, and edits of the list in it that names what is not quantized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fp8load.errors import Fp8LoadError
from fp8load.formats.locate import configurations
from fp8load.index.configs import find_index
from fp8load.rules.base import Context
from fp8load.rules.repairs.once import once
from fp8load.scheme import Role
from fp8load.writing.actions import Edit, How

LISTS = ("ignore", "modules_to_not_convert", "ignored_layers", "exclude_modules", "exclude")
"""Keys under which dialects list modules that are not quantized."""

_DEFAULT = {"compressed-tensors": "ignore", "modelopt": "ignore", "quark": "exclude"}


def path_of(place: str) -> tuple[str, tuple[str, ...]]:
    """File and keys of a place: "config.json text_config.quantization_config"."""
    file, _, keys = place.partition(" ")
    return file, tuple(keys.split(".")) if keys else ()


Configuration = tuple[str, tuple[str, ...], Mapping[str, Any]]
"""File, keys in it, and document."""


@once
def all_configurations(context: Context) -> list[Configuration]:
    """Every configuration that lies in a JSON file, the one in use first."""
    places = configurations(context.checkpoint.index)
    found: list[Configuration] = []
    while True:
        try:
            located = next(places, None)
        except Fp8LoadError:  # a second one that cannot be read is F8L103's to report, and nobody's to edit
            return found
        if located is None:
            return found
        file, keys = path_of(located.place)
        if file.endswith(".json"):
            found.append((file, keys, located.document))


def configuration(context: Context) -> Configuration | None:
    """The configuration in use, where it is a JSON file; None otherwise."""
    used = path_of(context.checkpoint.format.place)
    return next((found for found in all_configurations(context) if found[:2] == used), None)


def edit_list(context: Context, how: How, entry: str) -> Iterator[Edit]:
    """Append an entry to the list of what is not quantized, or discard it: in every configuration, so that they agree
    afterwards."""
    for file, keys, document in all_configurations(context):
        yield Edit(file, (*keys, *list_key(document)), how, entry)


def list_key(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys of the list: of several the first with entries, else the first that is there, else the method's own."""
    inner = document.get("quantization")
    if isinstance(inner, Mapping):  # ModelOpt's hf_quant_config.json
        return ("quantization", *(list_key(inner) if any(key in inner for key in LISTS) else ("exclude_modules",)))
    there = [key for key in LISTS if key in document]
    filled = [key for key in there if document[key]]
    method = str(document.get("quant_method", "modelopt" if "quant_algo" in document else ""))
    return ((filled or there or [_DEFAULT.get(method, "modules_to_not_convert")])[0],)


@once
def stored_unquantized(context: Context) -> frozenset[str]:
    """Modules whose weight is a matrix in 16 bits or more."""
    weights = {name: info.tensors[Role.WEIGHT] for name, info in context.checkpoint.lowered.modules.items()}
    return frozenset(name for name, meta in weights.items() if meta.dtype.is_wide_float and len(meta.shape) > 1)


@once
def index_file(context: Context) -> str | None:
    """The name of index.json, None where there is none."""
    return find_index(context.checkpoint.source.list())
