"""The JSON files beside the weights: the configuration files, and index.json with its map of tensors to files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fp8load.errors import NotFoundError, Problem, Severity
from fp8load.index.plain_yaml import CAP, read_yaml
from fp8load.index.strict_json import DuplicateKeyError, refuse_duplicates
from fp8load.source.base import Source
from fp8load.source.local import unsafe_name

CONFIG_NAMES = (
    "config.json", "hf_quant_config.json", "quantization_config.json", "params.json", "quant_model_description.json",
    "quanto_qmap.json", "generation_config.json",
)  # fmt: skip
"""Files that may say how the weights are quantized (and generation_config.json, which KV-cache settings hide in)."""

RECIPE = "recipe.yaml"
"""What llm-compressor was told to do. No engine reads it; where config.json says otherwise, one of them is wrong."""

INDEX_SUFFIX = ".safetensors.index.json"
MAIN_INDEX = "model" + INDEX_SUFFIX
SECOND_COPY = "consolidated"
"""How the files begin that hold Mistral's own layout, often beside transformers' layout in model*.safetensors."""

_REFETCH = "fetch the index again, or ask the publisher"
JSON_CAP = 100_000_000
"""Largest JSON file that is read, as for headers: DeepSeek-V3's index.json has 8.9 MB."""


def _load(source: Source, file: str, code: str) -> dict[str, Any] | Problem:
    """One JSON object, or the problem that it has. Other source errors pass: then the file could not be read at all."""

    def wrong(message: str, got: str) -> Problem:
        return Problem(code=code, message=message, file=file, expected="a JSON object", got=got, hint="fetch it again")

    try:
        size = source.size(file)
    except NotFoundError as error:  # it was listed: a dangling link of a broken cache
        return replace(error.problem, code="F8L010")
    if size > JSON_CAP:
        return wrong("the file is too large to be a configuration", f"{size:,} bytes")
    try:
        document = json.loads(source.read(file, 0, size), object_pairs_hook=refuse_duplicates)
    except DuplicateKeyError as error:
        got = f"{error}: {_short(error.first)}, then {_short(error.second)}"
        return Problem(code=code, message="the file has the same key twice", file=file, expected="each key once",
                       tensor=error.key if code == "F8L003" else "", got=got,
                       hint="fetch it again, or ask the publisher")  # fmt: skip
    except (ValueError, RecursionError) as error:
        return wrong("the file is not valid JSON", str(error) if size else "an empty file")
    if not isinstance(document, dict):
        return wrong("the file is not a JSON object", f"a {type(document).__name__}")
    return document


def read_configs(source: Source, present: Mapping[str, int | None]) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    """The configuration files that are present, parsed, and the problems of those that cannot be."""
    configs: dict[str, dict[str, Any]] = {}
    problems: list[Problem] = []
    for name in CONFIG_NAMES:
        if name not in present:
            continue
        loaded = _load(source, name, "F8L110")
        if isinstance(loaded, dict):
            configs[name] = loaded
        elif name == "generation_config.json":  # it says nothing about the weights
            problems.append(replace(loaded, severity=Severity.WARNING, refuses=False))
        else:
            problems.append(loaded)
    if RECIPE in present:
        recipe = _load_recipe(source)
        if isinstance(recipe, dict):
            configs[RECIPE] = recipe
        else:
            problems.append(recipe)
    return configs, problems


def _load_recipe(source: Source) -> dict[str, Any] | Problem:
    """recipe.yaml, or why it is not compared with the configuration: a note, nothing else depends on it."""
    problem = Problem(code="F8L103", message="recipe.yaml is not read, and not compared with the configuration",
                      file=RECIPE, expected="a YAML object", severity=Severity.INFO, refuses=False)  # fmt: skip
    try:
        size = source.size(RECIPE)
        document = read_yaml(source.read(RECIPE, 0, size)) if size <= CAP else f"{size:,} bytes"
    except NotFoundError as error:  # it was listed: a dangling link of a broken cache
        return replace(error.problem, code="F8L010")
    except ValueError as error:
        return replace(problem, got=str(error)[:200])
    return document if isinstance(document, dict) else replace(problem, got=_short(document))


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexJson:
    """index.json: its own name, the map tensor -> file with unusable entries left out, and metadata.total_size."""

    file: str
    weight_map: dict[str, str]
    total_size: int | None


def find_index(present: Mapping[str, int | None]) -> str | None:
    """The index file of the checkpoint: model.safetensors.index.json, else the first by name.

    Mistral's consolidated.safetensors.index.json beside model.safetensors is that of the second copy.
    """
    if MAIN_INDEX in present:
        return MAIN_INDEX
    has_model = any(name.startswith("model") and name.endswith(".safetensors") for name in present)
    others = (name for name in present if name.endswith(INDEX_SUFFIX) and "/" not in name)
    return min((name for name in others if not (has_model and name.startswith(SECOND_COPY))), default=None)


def read_index_json(source: Source, file: str) -> tuple[IndexJson | None, list[Problem]]:
    """index.json with every entry checked; None when it is no map at all. Names that leave the folder are dropped."""
    loaded = _load(source, file, "F8L003")
    if isinstance(loaded, Problem):
        return None, [loaded]
    weight_map = loaded.get("weight_map")
    if not isinstance(weight_map, dict):
        return None, [Problem(code="F8L003", message="the index has no weight_map", file=file,
                              expected="weight_map: tensor name -> file name", got=_short(weight_map),
                              hint=_REFETCH)]  # fmt: skip
    if not weight_map:
        return None, [Problem(code="F8L003", message="the index names no tensor", file=file,
                              expected="weight_map: tensor name -> file name", got="an empty weight_map",
                              hint=_REFETCH)]  # fmt: skip
    metadata = loaded.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    total_size = int(total) if isinstance(total, int | float) and math.isfinite(total) else None
    problems = [
        Problem(code="F8L003", message="the index gives something else than a file name", file=file, tensor=name,
                expected="a file name", got=_short(value), hint=_REFETCH)
        for name, value in weight_map.items() if not isinstance(value, str)
    ]  # fmt: skip
    if problems:
        weight_map = {name: value for name, value in weight_map.items() if isinstance(value, str)}
    refused = {value: reason for value in set(weight_map.values()) if (reason := unsafe_name(value)) is not None}
    problems += [
        Problem(code="F8L003", message=f"the index names a file that is not opened: {refused[value]}", file=file,
                tensor=name, expected="a file inside the checkpoint's folder", got=repr(value),
                hint="do not trust this checkpoint, or fetch its index again")
        for name, value in weight_map.items() if value in refused
    ]  # fmt: skip
    if refused:
        weight_map = {name: value for name, value in weight_map.items() if value not in refused}
    return IndexJson(file=file, weight_map=weight_map, total_size=total_size), problems


def _short(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {repr(value)[:60]}"
