"""F8L104: a configuration in an odd place, or in ModelOpt's nested form, is written to where every engine looks."""

from collections.abc import Iterator, Mapping
from typing import Any

from fp8load.errors import Problem
from fp8load.formats.document import flattened
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.places import configuration
from fp8load.writing.actions import Edit

_USUAL = ("quantization_config",)
_CACHE = {"dynamic": False, "num_bits": 8, "type": "float"}


def actions(context: Context, _problem: Problem) -> Iterator[Edit]:
    """To the top level of config.json; it stays where it was too, for readers that look there."""
    found = configuration(context)
    flat = None if found is None else _flat(found[2])
    there = context.checkpoint.index.config.get("quantization_config")
    if flat is not None and (there is None or "quantization" in there):
        yield Edit("config.json", _USUAL, "set", flat)


def _flat(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """The document as config.json holds it; None for one that names no method. ModelOpt's nested form names none, and
    its keys have other names here."""
    if document.get("quant_method"):
        return dict(document)
    if not isinstance(document.get("quantization"), Mapping):
        return None
    flat = flattened(document)
    cache, ignored = flat.pop("kv_cache_quant_algo", None), flat.pop("exclude_modules", None)
    if "quantized_layers" in flat or cache not in (None, "FP8"):
        return None  # a list that engines read in hf_quant_config.json only
    flat |= {"ignore": flat.get("ignore") or ignored or [], "quant_method": "modelopt"}
    return flat if cache is None else flat | {"kv_cache_scheme": _CACHE}


REPAIR = Repair(title="copies the configuration to the top level of config.json", actions=actions)
