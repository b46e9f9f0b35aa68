"""`quant_method: torchao`, float8: transformers' TorchAoConfig, flattened into safetensors by torchao.

Source: torchao `prototype/safetensors` (0.18 seen). A weight X is `X._weight_qdata` F8_E4M3 [N, K] and
`X._weight_scale` F32 [N, 1] (PerRow) or [1, 1] (PerTensor), which multiply; `quant_type.default` is the dump of a
config class, whose `weight_dtype` may also be E5M2 or of the fnuz kind. The head and the embeddings are left alone
unless include_input_output_embeddings says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from fp8load.dtypes import DType
from fp8load.errors import ConfigError, Problem
from fp8load.formats.base import CheckpointFormat, Claim, Claimed, Ignored, Located
from fp8load.formats.document import validated
from fp8load.formats.match import component_run, first_cover
from fp8load.scheme import Granularity, LinearScheme, PerChannel, PerTensor, PerToken, QuantSpec, Role

NAME = "torchao"

SUFFIXES: Mapping[str, Role] = {"_weight_qdata": Role.WEIGHT, "_weight_scale": Role.WEIGHT_SCALE}


_ELEMENTS = {
    "float8_e4m3fn": DType.F8_E4M3, "float8_e5m2": DType.F8_E5M2,
    "float8_e4m3fnuz": DType.F8_E4M3FNUZ, "float8_e5m2fnuz": DType.F8_E5M2FNUZ,
}  # fmt: skip


class Dump(BaseModel):
    """A torchao object as JSON: its class and its fields."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(alias="_type")
    data: Any = Field(default=None, alias="_data")


class QuantType(BaseModel):
    """`quant_type`: one configuration for all layers."""

    model_config = ConfigDict(extra="allow")

    default: Dump


class TorchAoConfig(BaseModel):
    """The keys of the configuration."""

    model_config = ConfigDict(extra="allow")

    quant_method: str
    quant_type: QuantType
    modules_to_not_convert: list[str] | None = None
    include_input_output_embeddings: bool = False
    untie_embedding_weights: bool = False


def detect(document: Mapping[str, Any]) -> bool:
    """quant_method is torchao."""
    return document.get("quant_method") == "torchao"


def parse(located: Located) -> CheckpointFormat:
    """The configuration as a value. Raises `ConfigError`."""
    config = validated(TorchAoConfig, located)
    ignore = tuple(config.modules_to_not_convert or ())
    find = first_cover(ignore, component_run)
    claimed = Claimed(scheme=_scheme(config.quant_type.default, located), by=located.place, explicit=bool(ignore))

    def claim(module: str) -> Claim:
        entry = find(module)
        return Ignored(by=entry) if entry is not None else claimed

    return CheckpointFormat(
        name=NAME,
        title=f"torchao {config.quant_type.default.type}: {claimed.scheme}",
        place=located.place,
        claim=claim,
        suffixes=SUFFIXES,
        ignore=ignore,
        covers=component_run,
        renames_weights=True,
        unknown_keys=tuple(config.model_extra or ()),
    )


def _scheme(dump: Dump, located: Located) -> LinearScheme:
    fields = dump.data if isinstance(dump.data, Mapping) else {}
    known = {"Float8WeightOnlyConfig": False, "Float8DynamicActivationFloat8WeightConfig": True}
    dtype = fields.get("weight_dtype", {}).get("_data", "float8_e4m3fn")
    given = fields.get("activation_dtype", {}).get("_data", "float8_e4m3fn")
    if dump.type not in known or dtype not in _ELEMENTS or given not in _ELEMENTS:
        raise ConfigError(Problem(
            code="F8L107", message="this torchao configuration is not supported by this version", file=located.place,
            expected=" or ".join(known) + " of " + ", ".join(_ELEMENTS), got=f"{dump.type} of {dtype}, inputs {given}",
            hint="`fp8load inspect --skeleton` still lists what the files hold",
        ))  # fmt: skip
    per_row = "PerTensor" not in str(fields.get("granularity"))
    weight: Granularity = PerChannel() if per_row else PerTensor()
    activation: Granularity = PerToken() if per_row else PerTensor()
    return LinearScheme(
        weight=QuantSpec(dtype=_ELEMENTS[dtype], granularity=weight),
        input=QuantSpec(dtype=_ELEMENTS[given], granularity=activation) if known[dump.type] else None,
    )
