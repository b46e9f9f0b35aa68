"""The lossy choice for fused per-tensor layers: one scale for all parts, as engines make it without being asked."""

from __future__ import annotations

from typing import Literal

from fp8load.dtypes import LARGEST_FINITE
from fp8load.errors import Problem, UsageError
from fp8load.runtime.scaled import ScaledLayer
from fp8load.scheme import PerTensor

Requantize = Literal["max"]


def requantize_to_max_(layer: ScaledLayer) -> bool:
    """Give all parts of a layer, or of each expert, the largest of their scales, in place; whether anything changed.

    Only weights with one scale for each part, and only where these differ: code' = round(code * scale / max), computed
    in float32 and clamped to the dtype's largest finite value. Parts with a small scale lose resolution; the default,
    one scale for each row, loses nothing. Raises `UsageError` USE014 for a layer with transforms.
    """
    scale = layer.weight_scale
    if layer.scheme.transforms:
        raise UsageError(Problem(code="USE014", message="a layer with transforms cannot be requantized",
                                 module=layer.name, expected="requantize=None", got=str(layer.scheme)))  # fmt: skip
    if scale is None or not isinstance(layer.scheme.weight.granularity, PerTensor):
        return False
    largest = scale.detach().amax(dim=-1, keepdim=True)  # [parts], or [E, parts]
    if bool((scale.detach() == largest).all()):
        return False
    bound = LARGEST_FINITE[layer.scheme.weight.dtype]
    w_NK = layer.dequantize().div_(largest[..., None]).clamp_(-bound, bound)
    layer.weight.detach().copy_(w_NK.to(layer.weight.dtype))
    scale.detach().copy_(largest.expand_as(scale))
    for param in (layer.weight, scale):
        for source in param.param_layout.sources:
            param.mark_written(source.slot)
    return True


def checked(requantize: str | None) -> Requantize | None:
    """The option, if it is one. Raises `UsageError`."""
    if requantize is None:
        return None
    if requantize == "max":
        return "max"
    raise UsageError(Problem(code="USE014", message="no such way to requantize", expected='None (exact) or "max"',
                             got=repr(requantize)))  # fmt: skip
