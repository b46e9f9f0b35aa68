"""llm-compressor's recipe.yaml as the configuration that it asks for, to be compared with the one that was written.

A recipe has stages, a stage has modifiers, and one of these quantizes: by `config_groups` as in config.json, or by
`scheme`, a name of compressed-tensors' presets for its `targets`. `ignore` and `kv_cache_scheme` are those of
config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fp8load.formats.base import Located
from fp8load.index.configs import RECIPE

_FP8 = {"num_bits": 8, "type": "float"}
_FP4 = {"num_bits": 4, "type": "float"}
_MX = {"strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}
_NV = {**_FP4, "strategy": "tensor_group", "group_size": 16}
_TOKENS = {**_FP8, "strategy": "token", "dynamic": True}

PRESETS: Mapping[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "FP8": ({**_FP8, "strategy": "tensor"}, {**_FP8, "strategy": "tensor"}),
    "FP8_DYNAMIC": ({**_FP8, "strategy": "channel"}, _TOKENS),
    "FP8_BLOCK": ({**_FP8, "strategy": "block", "block_structure": [128, 128]},
                  {**_FP8, "strategy": "group", "group_size": 128, "dynamic": True}),
    "NVFP4": (_NV, {**_NV, "dynamic": "local"}),
    "NVFP4A16": (_NV, None),
    "MXFP4": ({**_FP4, **_MX}, {**_FP4, **_MX, "dynamic": True}),
    "MXFP4A16": ({**_FP4, **_MX}, None),
    "MXFP8": ({**_FP8, **_MX}, {**_FP8, **_MX, "dynamic": True}),
    "W4AFP8": ({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}, _TOKENS),
}  # fmt: skip
"""Name -> weights and inputs; compressed-tensors `quantization/quant_scheme.py`. Of other names nothing is said."""


def located_recipe(used: Located, files: Mapping[str, Mapping[str, Any]]) -> Located | None:
    """What the recipe asks for, as a configuration of compressed-tensors; None without a recipe, or where it has not
    exactly one modifier that quantizes in a way that is known. `used`: the configuration that was written."""
    modifiers = _modifiers(files.get(RECIPE, {}))
    asked = [arguments for arguments in modifiers if "scheme" in arguments or "config_groups" in arguments]
    groups = _groups(asked[0]) if len(asked) == 1 else None
    if not groups:
        return None
    written = used.document.get("config_groups")
    for name, group in groups.items():  # how codes are packed is not the recipe's to say
        other = written.get(name) if isinstance(written, Mapping) else None
        group["format"] = other.get("format") if isinstance(other, Mapping) else None
    ignore = asked[0].get("ignore")
    document = {"quant_method": "compressed-tensors", "config_groups": groups, "format": used.document.get("format"),
                "ignore": [ignore] if isinstance(ignore, str) else ignore,
                "kv_cache_scheme": asked[0].get("kv_cache_scheme")}  # fmt: skip
    return Located(place=RECIPE, document=document, why="")


def _modifiers(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The arguments of every modifier, of all stages."""
    found: list[Mapping[str, Any]] = []
    for stage in recipe.values():
        sections = stage.items() if isinstance(stage, Mapping) else ()
        for name, modifiers in sections:
            if name.endswith("modifiers") and isinstance(modifiers, Mapping):
                found += [arguments for arguments in modifiers.values() if isinstance(arguments, Mapping)]
    return found


def _groups(arguments: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    written, scheme, targets = arguments.get("config_groups"), arguments.get("scheme"), arguments.get("targets")
    if isinstance(written, Mapping) and written:
        return {name: dict(group) for name, group in written.items() if isinstance(group, Mapping)}
    named = {scheme: targets} if isinstance(scheme, str) else scheme if isinstance(scheme, Mapping) else {}
    if not all(name.upper() in PRESETS and isinstance(meant, str | list | None) for name, meant in named.items()):
        return None
    groups: dict[str, dict[str, Any]] = {}
    for number, (name, meant) in enumerate(named.items()):
        weights, inputs = PRESETS[name.upper()]
        groups[f"group_{number}"] = {"targets": [meant] if isinstance(meant, str) else list(meant or ["Linear"]),
                                     "weights": dict(weights), "input_activations": inputs}  # fmt: skip
    return groups
