"""Changes of the configuration; see `mutations.changes`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mutations.changes import Rng
from mutations.copies import Copy

LISTS = ("ignore", "modules_to_not_convert", "ignored_layers", "exclude", "exclude_modules")
PLACES = ("config.json", "hf_quant_config.json", "quantization_config.json")


def _listed(copy: Copy) -> tuple[str, list[str]] | None:
    """Key and entries of config.json's list of unquantized modules."""
    found = copy.quantization or {}
    return next(((key, found[key]) for key in LISTS if isinstance(found.get(key), list)), None)


def _with(copy: Copy, **changed: Any) -> Copy:
    """The same with keys of the quantization configuration changed, where config.json has it."""
    return copy.config(quantization_config={**(copy.quantization or {}), **changed})


def without_configuration(copy: Copy, rng: Rng) -> Copy | None:
    """Nothing says any more that the checkpoint is quantized."""
    del rng
    if copy.quantization is None and "hf_quant_config.json" not in copy.files:
        return None
    config = {key: value for key, value in copy.files["config.json"].items() if key != "quantization_config"}
    return replace(copy, files={"config.json": config})


def unknown_method(copy: Copy, rng: Rng) -> Copy | None:
    """quant_method is one that nobody knows."""
    del rng
    if copy.quantization is None or "quant_method" not in copy.quantization:
        return None
    return _with(copy, quant_method="superquant")


def ignore_removed(copy: Copy, rng: Rng) -> Copy | None:
    """The list of unquantized modules has lost its entries."""
    del rng
    found = _listed(copy)
    return None if found is None or not found[1] else _with(copy, **{found[0]: []})


def ignore_widened(copy: Copy, rng: Rng) -> Copy | None:
    """The list of unquantized modules names one that is quantized."""
    found = _listed(copy)
    names = [info.name for info in copy.quantized]
    if found is None or not names:
        return None
    return _with(copy, **{found[0]: [*found[1], names[int(rng.integers(len(names)))]]})


def ignore_of_nothing(copy: Copy, rng: Rng) -> Copy | None:
    """The list of unquantized modules names one that does not exist."""
    del rng
    found = _listed(copy)
    return None if found is None else _with(copy, **{found[0]: [*found[1], "model.layers.0.mlp.stranger_proj"]})


def other_block_size(copy: Copy, rng: Rng) -> Copy | None:
    """The configuration says blocks of 64 x 32, which is not their size."""
    del rng
    return None if "weight_block_size" not in (copy.quantization or {}) else _with(copy, weight_block_size=[64, 32])


def two_that_disagree(copy: Copy, rng: Rng) -> Copy | None:
    """A second configuration file says that everything is NVFP4, or FP8 where it is NVFP4."""
    del rng
    if copy.quantization is None:
        return None
    algo = "FP8" if "nvfp4" in str(copy.quantization).lower() else "NVFP4"
    document = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": algo, "exclude_modules": ["lm_head"]}}
    return replace(copy, files={**copy.files, "hf_quant_config.json": document})


def one_layer_more(copy: Copy, rng: Rng) -> Copy | None:
    """config.json counts one layer more than there is."""
    del rng
    count = copy.files["config.json"].get("num_hidden_layers")
    return copy.config(num_hidden_layers=count + 1) if isinstance(count, int) else None


def wider(copy: Copy, rng: Rng) -> Copy | None:
    """config.json's intermediate_size is twice what the weights have."""
    del rng
    size = copy.files["config.json"].get("intermediate_size")
    return copy.config(intermediate_size=2 * size) if isinstance(size, int) else None


def static_inputs(copy: Copy, rng: Rng) -> Copy | None:
    """The configuration says static activations where no input scale is stored."""
    del rng
    if (copy.quantization or {}).get("activation_scheme") != "dynamic":
        return None
    return _with(copy, activation_scheme="static")
