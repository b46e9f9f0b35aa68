"""optimum-quanto's FP8 weights: no quantization_config at all, only quanto_qmap.json beside the weights.

Source: optimum-quanto 0.2.7 `QuantizedTransformersModel.save_pretrained`. A module of the map has `weight._data`
F8_E4M3 (or E5M2, or E4M3FNUZ) [N, K] and `weight._scale` BF16 [N, 1], which multiply. `input_scale` and `output_scale`
are written as 1 even where activations are not quantized. transformers reads such a folder as an unquantized model with
random weights, silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fp8load.dtypes import DType
from fp8load.errors import ConfigError, Problem
from fp8load.formats.base import CheckpointFormat, Claim, Claimed, Located, Unclaimed
from fp8load.scheme import LinearScheme, PerChannel, QuantSpec, Role

NAME = "quanto"

SUFFIXES: Mapping[str, Role] = {"weight._data": Role.WEIGHT, "weight._scale": Role.WEIGHT_SCALE}
ELEMENTS = {
    "qfloat8_e4m3fn": DType.F8_E4M3,
    "qfloat8_e5m2": DType.F8_E5M2,
    "qfloat8_e4m3fnuz": DType.F8_E4M3FNUZ,
}
UNUSED = "activations are not quantized; quanto writes a scale of 1 all the same"


def detect(document: Mapping[str, Any]) -> bool:
    """A map of modules to what their weights and activations are."""
    return bool(document) and all(
        isinstance(entry, Mapping) and entry.keys() == {"weights", "activations"} for entry in document.values()
    )


def parse(located: Located) -> CheckpointFormat:
    """The configuration as a value. Raises `ConfigError`."""
    schemes = {
        kind: LinearScheme(weight=QuantSpec(dtype=dtype, granularity=PerChannel())) for kind, dtype in ELEMENTS.items()
    }
    claims: dict[str, Claimed] = {}
    for module, entry in located.document.items():
        if str(entry["weights"]) not in ELEMENTS or entry["activations"] != "none":
            raise ConfigError(Problem(
                code="F8L107", message="this quanto type is not supported by this version", file=located.place,
                module=module, expected="weights " + " or ".join(ELEMENTS) + ", activations none",
                got=f"weights {entry['weights']}, activations {entry['activations']}",
                hint="`fp8load inspect --skeleton` still lists what the files hold",
            ))  # fmt: skip
        claims[module] = Claimed(scheme=schemes[entry["weights"]], by=located.place, explicit=True)

    def claim(module: str) -> Claim:
        return claims.get(module) or Unclaimed()

    return CheckpointFormat(
        name=NAME,
        title="optimum-quanto: " + "; ".join(dict.fromkeys(str(claimed.scheme) for claimed in claims.values())),
        place=located.place,
        claim=claim,
        suffixes=SUFFIXES,
        renames_weights=True,
        split=_split,
        unused={"input_scale": UNUSED, "output_scale": UNUSED},
        problems=(_unannounced(located),),
    )


def _unannounced(located: Located) -> Problem:
    """Readable here, and by nothing that looks for a quantization_config."""
    return Problem(
        code="F8L101", message="no quantization_config says that the weights are quantized", file=located.place,
        expected="a quantization_config in config.json", got=f"{located.place} only", refuses=False,
        hint="transformers loads this folder as an unquantized model with random weights, without an error",
    )  # fmt: skip


def _split(name: str) -> tuple[str, str]:
    """Module and suffix: the parts of a weight are `weight._data` and `weight._scale`."""
    base, _, last = name.rpartition(".")
    if last in ("_data", "_scale") and base.endswith(".weight"):
        return base.removesuffix(".weight"), f"weight.{last}"
    return base, last
