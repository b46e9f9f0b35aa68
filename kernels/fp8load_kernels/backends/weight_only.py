"""Weights of 8 and 4 bits under inputs of 16, in Triton: for GPUs without the units that a scheme was made for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from fp8load.dtypes import DType
from fp8load.runtime.backend import Device, LinearWeights, No, Prepared, Verdict, Yes
from fp8load.scheme import LinearScheme, NibbleOrder, PerBlock, PerChannel, PerGroup, PerTensor
from fp8load_kernels.dequantizable import dequantizable
from fp8load_kernels.derive import channel_scale, grid_rows, keep, row_factor
from fp8load_kernels.quantizable import EXPONENTS
from fp8load_kernels.quantize import converts_to_e4m3
from fp8load_kernels.shapes import NO_TRITON, as_rows, contiguous_columns, has_triton, like_input

if TYPE_CHECKING:
    from fp8load_kernels.gpu.unpack import Coded

CAPABILITY = (8, 0)
KINDS = {DType.F8_E4M3: "e4m3", DType.F8_E5M2: "e5m2", DType.I8: "i8", DType.F4: "e2m1", DType.I4: "i4"}
"""How codes are decoded; `fp8load_kernels.gpu.decode`."""

BY_ROW = (PerTensor, PerChannel)
"""How a weight is scaled whose scales multiply the rows of the product."""

NOTE = "the input stays in 16 bits, unquantized"


class TritonWeightOnly:
    """The input as it comes, the weight unpacked in the kernel: up to 64 tokens in one, for more by torch's product.

    A scheme that quantizes its input runs too, more exactly than it says: as engines do on GPUs without FP8 or FP4.
    """

    name = "weight_only"

    def supports(self, scheme: LinearScheme, shape_NK: tuple[int, int], device: Device) -> Verdict:
        """FP8, INT8, FP4 and INT4, scaled per tensor, channel, block or group; compute capability 8.0."""
        return weight_only(scheme, shape_NK, device)

    def prepare(self, weights: LinearWeights, previous: Prepared | None = None) -> Prepared:
        """Everything as it lies; scales of the whole layer spread over its rows."""
        granularity = weights.scheme.weight.granularity
        old_rows, old_factor = (None, None) if previous is None else (previous.grid_rows, previous.row_factor)
        return Prepared(
            weights=weights,
            weight=weights.weight,
            weight_scale=None if isinstance(granularity, BY_ROW) else weights.weight_scale,
            grid_rows=grid_rows(weights, old_rows) if isinstance(granularity, PerBlock) else None,
            row_factor=_factor(weights, old_factor),
        )

    def apply(self, prepared: Prepared, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x [..., K] -> [..., N] in x's dtype."""
        from fp8load_kernels.gpu.tiles import FEW
        from fp8load_kernels.gpu.unpack import many_tokens
        from fp8load_kernels.gpu.weight_only import few_tokens

        x_MK = contiguous_columns(as_rows(x))
        few = x_MK.shape[0] <= FEW and x.dtype != torch.float32
        return like_input((few_tokens if few else many_tokens)(x_MK, self.coded(prepared), bias), x)

    def coded(self, prepared: Prepared) -> Coded:
        """The weight as its kernels take it."""
        return coded(prepared.weights.scheme, prepared.weights.shape, prepared)


class Held(Protocol):
    """What a layer and a stack of experts have prepared alike; tensors of a stack have the expert first."""

    @property
    def weight(self) -> torch.Tensor:
        """Codes."""
        ...

    @property
    def weight_scale(self) -> torch.Tensor | None:
        """Scales of blocks or groups, as they are stored."""
        ...

    @property
    def grid_rows(self) -> torch.Tensor | None:
        """The row of the grid of scales of each row of the weight, where it has to be looked up."""
        ...

    @property
    def row_factor(self) -> torch.Tensor | None:
        """What each row of the product is multiplied by in the end."""
        ...


def coded(scheme: LinearScheme, shape_NK: tuple[int, int], held: Held) -> Coded:
    """A weight, or the weights of a stack, as kernels take them."""
    from fp8load_kernels.gpu.unpack import Coded

    spec, weight = scheme.weight, held.weight
    hardware = spec.dtype is DType.F8_E4M3 and weight.is_cuda and converts_to_e4m3(weight.device)
    scale, kind = held.weight_scale, "float"
    if scale is not None and scale.dtype != torch.float32:
        kind = "e8m0" if spec.scale_dtype in EXPONENTS else "e4m3" if spec.scale_dtype is DType.F8_E4M3 else "float"
        scale = scale if kind == "float" else scale.view(torch.uint8)
    return Coded(
        codes=weight if hardware else weight.view(torch.uint8),
        kind="hardware" if hardware else KINDS[spec.dtype],
        shape=shape_NK,
        scale=scale,
        scale_kind=kind,
        block=_block(spec.granularity),
        row_of=held.grid_rows,
        factor=held.row_factor,
    )


def _factor(weights: LinearWeights, buffer: torch.Tensor | None) -> torch.Tensor | None:
    """What each row of the product is multiplied by, float32 [N]: its scale where it has one, and the second level."""
    if not isinstance(weights.scheme.weight.granularity, BY_ROW):
        return row_factor(weights, buffer)
    second, old = row_factor(weights), None if buffer is None else buffer.reshape(1, -1)
    if second is None:
        return channel_scale(weights, old).reshape(-1)
    return keep(channel_scale(weights).reshape(-1) * second, buffer)


def weight_only(scheme: LinearScheme, shape_NK: tuple[int, int], device: Device) -> Verdict:
    """Whether kernels of this package unpack the weight of a scheme, and multiply by it on a device. Pure."""
    reason = _refuses(scheme, shape_NK)
    if reason:
        return No(reason)
    if device.kind != "cuda" or device.capability is None or device.capability < CAPABILITY:
        return No(f"runs on compute capability 8.0 or higher, and this is {device}")
    if not has_triton():
        return No(NO_TRITON)
    return Yes() if scheme.input is None else Yes(NOTE)


def _block(granularity: object) -> tuple[int, int]:
    if isinstance(granularity, PerBlock):
        return granularity.rows, granularity.cols
    return (1, granularity.cols) if isinstance(granularity, PerGroup) else (1, 1)


def _refuses(scheme: LinearScheme, shape_NK: tuple[int, int]) -> str:
    dtype, (rows, cols) = scheme.weight.dtype, _block(scheme.weight.granularity)
    if dtype not in KINDS:
        return f"decodes weights of {', '.join(KINDS)}, not {dtype}"
    plain = dequantizable(scheme)
    if isinstance(plain, No):
        return plain.reason
    if scheme.transforms:
        return "does not apply " + ", ".join(scheme.transforms)
    if scheme.weight.scale_dtype is None:
        return "takes weights with scales"
    if dtype.bits < 8 and scheme.storage.nibble_order is not NibbleOrder.LOW_FIRST:
        return f"reads packed elements low-first, not {scheme.storage.nibble_order}"
    smallest = 16 if scheme.weight.scale_dtype is DType.F8_E4M3 else 32
    if (rows, cols) != (1, 1) and (cols < smallest or cols & (cols - 1)):
        return f"takes groups of {smallest}, {2 * smallest} or more columns, a power of two, not {cols}"
    if min(shape_NK) < 1 or (dtype.bits < 8 and shape_NK[1] % 2):
        return f"needs N and K of at least 1, and packed weights an even K, not {list(shape_NK)}"
    return ""
