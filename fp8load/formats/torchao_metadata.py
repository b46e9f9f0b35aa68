"""torchao without a quantization_config: what its `__metadata__` says of each tensor.

Source: torchao `prototype/safetensors` (0.18 seen). Metadata has an entry for each tensor of the model, JSON text with
`_type`: "Tensor" as it is, "Float8Tensor" with `block_size`: [1, K] for one scale a row, [N, K] for one in all. Tensors
lie as `fp8load.formats.torchao` says. How inputs are quantized is not read: `act_quant_kwargs` must be null.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from fp8load.dtypes import DType
from fp8load.errors import ConfigError, Problem
from fp8load.formats.base import CheckpointFormat, Claim, Claimed, Located, Unclaimed
from fp8load.formats.document import validated
from fp8load.formats.inside import TORCHAO_TENSORS
from fp8load.formats.torchao import SUFFIXES
from fp8load.scheme import LinearScheme, PerChannel, PerTensor, QuantSpec

NAME = "torchao_metadata"


class Fields(BaseModel):
    """What a Float8Tensor is made with; other fields are about running it."""

    model_config = ConfigDict(extra="allow")

    block_size: tuple[int, int]
    act_quant_kwargs: dict[str, Any] | None = None


class Dump(BaseModel):
    """The entry of one quantized tensor."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(alias="_type")
    data: dict[str, Any] = Field(default_factory=dict, alias="_data")


def detect(document: Mapping[str, Any]) -> bool:
    """The document was made of torchao's metadata."""
    return document.keys() == {TORCHAO_TENSORS}


def parse(located: Located) -> CheckpointFormat:
    """The configuration as a value. Raises `ConfigError` that names a tensor that is quantized in another way."""
    claims = dict(_claims(located))

    def claim(module: str) -> Claim:
        return claims.get(module, Unclaimed())

    return CheckpointFormat(
        name=NAME,
        title="torchao: " + "; ".join(dict.fromkeys(str(claimed.scheme) for claimed in claims.values())),
        place=located.place,
        claim=claim,
        suffixes=SUFFIXES,
        renames_weights=True,
    )


def _claims(located: Located) -> Iterator[tuple[str, Claimed]]:
    schemes = {
        granularity: LinearScheme(weight=QuantSpec(dtype=DType.F8_E4M3, granularity=granularity))
        for granularity in (PerChannel(), PerTensor())
    }
    for module, (entry, shape) in located.document[TORCHAO_TENSORS].items():
        dump = validated(Dump, Located(place=located.place, document=entry))
        if dump.type != "Float8Tensor":
            raise _unsupported(located, module, "Float8Tensor", dump.type)
        fields = validated(Fields, Located(place=located.place, document=dump.data))
        num_rows, num_cols = fields.block_size
        if fields.act_quant_kwargs is not None:
            raise _unsupported(located, module, "act_quant_kwargs: null", str(fields.act_quant_kwargs)[:80])
        if shape is not None and num_cols != shape[-1]:
            raise _unsupported(located, module, f"block_size [1, {shape[-1]}] or {shape}", str([num_rows, num_cols]))
        granularity = PerChannel() if num_rows == 1 else PerTensor()
        if shape is not None and num_rows not in (1, shape[0]):
            raise _unsupported(located, module, f"block_size [1, {shape[-1]}] or {shape}", str([num_rows, num_cols]))
        yield module, Claimed(scheme=schemes[granularity], by=f"{located.place}: {module}.weight", explicit=True)


def _unsupported(located: Located, module: str, expected: str, got: str) -> ConfigError:
    return ConfigError(Problem(
        code="F8L107", message="a tensor of torchao is quantized in a way that this version does not read",
        tensor=f"{module}.weight", file=located.place, expected=expected, got=got,
        hint="keep the quantization_config of config.json, or dequantize with torchao",
    ))  # fmt: skip
