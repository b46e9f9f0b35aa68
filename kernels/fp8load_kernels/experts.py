"""What grouped backends share: which schemes they take, scales of a stack, and inputs as quantized rows.

An input is quantized before its rows are fetched, once for each token and not once for each of its experts; where each
expert has a static scale of its own, while they are fetched. What w13 gave is activated and quantized in one launch.

Shape letters: E experts, P rows, T tokens, N output rows, K input columns, G groups of columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fp8load.dtypes import DType
from fp8load.runtime.activation import Activation, activated
from fp8load.runtime.grouped import GroupedPrepared, StackWeights
from fp8load.runtime.routing import Routing, combined
from fp8load.runtime.routing import route as torch_route
from fp8load.scheme import LinearScheme, PerChannel, PerGroup, PerTensor, PerToken, QuantSpec
from fp8load_kernels.derive import keep, row_factor
from fp8load_kernels.padding import aligned
from fp8load_kernels.quantizable import powers_of_two, refuses_bound
from fp8load_kernels.quantize import converts_to_e4m3, quantize_dynamic
from fp8load_kernels.quantized import SMALLEST_SCALE, to_codes
from fp8load_kernels.shapes import contiguous_columns

LONGEST_ROW = 1 << 14
"""Columns up to which a row with one scale is activated and quantized in one launch."""


def refuses_rows(scheme: LinearScheme) -> str:
    """Why a scheme is none of F8_E4M3 with a scale for each row, or one for all, of either operand; else nothing."""
    if scheme.input is None:
        return "quantizes the input, and the scheme is weight-only"
    for operand, spec in (("weights", scheme.weight), ("inputs", scheme.input)):
        if spec.dtype is not DType.F8_E4M3:
            return f"takes {operand} of F8_E4M3, not {spec.dtype}"
        if not isinstance(spec.granularity, PerTensor | PerChannel | PerToken):
            return f"takes {operand} scaled per tensor or per row, not per {spec.granularity}"
    if scheme.input_static and scheme.input.granularity != PerTensor():
        return f"takes one static scale for the input, not {scheme.input.granularity}"
    if scheme.second_level or scheme.input_global or scheme.transforms or scheme.storage.transposed:
        return "takes plain [N, K] weights, and one level of scales for either operand"
    return refuses_bound(scheme)


def largest_input_scales(weights: StackWeights, buffer: torch.Tensor | None = None) -> torch.Tensor | None:
    """The static input scale of each expert, float32 [E]: the largest of its parts'. None without stored scales."""
    if weights.input_scale is None:
        return None
    return keep(weights.input_scale.float().reshape(weights.shape[0], -1).amax(1), buffer)


def channel_scales(weights: StackWeights, buffer: torch.Tensor | None = None) -> torch.Tensor:
    """The weight's scale for each row of each expert, float32 [E, N]; one for a part is repeated, which is exact.

    A view of the parameter where that has this form.
    """
    num_experts, num_rows, _ = weights.shape
    values = weights.scale_values()
    if weights.scheme.weight.granularity != PerTensor():
        found = values.reshape(num_experts, num_rows)
        return found if weights.weight_scale is values else keep(found, buffer)
    pieces = [
        values[:, part.scale_rows].expand(num_experts, part.rows.stop - part.rows.start) for part in weights.parts
    ]
    return keep(torch.cat(pieces, dim=1), buffer)


def row_factors(weights: StackWeights, buffer: torch.Tensor | None = None) -> torch.Tensor | None:
    """What each row of a weight-only product is multiplied by in the end, float32 [E, N]: its scale where it has one,
    and the second level. None for nothing."""
    if not isinstance(weights.scheme.weight.granularity, PerTensor | PerChannel):
        return row_factor(weights, buffer)
    second = row_factor(weights)
    return channel_scales(weights, buffer) if second is None else keep(channel_scales(weights) * second, buffer)


def block_scales(weights: StackWeights, buffer: torch.Tensor | None = None) -> torch.Tensor:
    """The grids of scales as float32 numbers [E, R, G]: the parameter, or decoded, in memory that keeps its address."""
    wide = weights.scale_values()
    return wide if weights.weight_scale is wide else keep(wide, buffer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A quantized input: codes and scales of a row for each token, or of rows as a routing has them."""

    codes: torch.Tensor
    scale: torch.Tensor
    by_token: bool


def quantized_rows(
    prepared: GroupedPrepared,
    x: torch.Tensor,
    routing: Routing,
    activation: Activation | None,
    *,
    fetched: bool = False,
    columns: bool = False,
) -> Rows:
    """The input as its scheme says, activated first where there is an activation.

    fetched  rows as the routing has them, whatever that costs
    columns  scales [P, G] that lie column by column, with P aligned to four; for fetched rows
    """
    scheme = prepared.weights.scheme
    spec = _input(scheme)
    x = contiguous_columns(x)
    if prepared.input_scale is not None:
        return _static(x, prepared.input_scale, spec, routing, activation)
    power = powers_of_two(scheme, spec)
    if activation is None:
        whole = quantize_dynamic(x, spec, power_of_two=power)
        scale = whole.scale.expand(x.shape[0], -1)
        return _fetched(whole.codes, scale, routing, columns=columns) if fetched else Rows(
            codes=whole.codes, scale=scale, by_token=True
        )  # fmt: skip
    num_cols = prepared.weights.shape[2]
    group = spec.granularity.cols if isinstance(spec.granularity, PerGroup) else None
    room = _room(routing.num_rows, 1 if group is None else -(-num_cols // group), x.device, columns=columns)
    fits = group is not None or (num_cols <= LONGEST_ROW and spec.upper_bound is None)
    if on_gpu(x) and spec.granularity != PerTensor() and fits:
        from fp8load_kernels.gpu.activation import activate_and_quantize

        found = activate_and_quantize(x, activation, routing, spec.dtype, cols=group, power_of_two=power, scale=room)
        return Rows(codes=found.codes, scale=found.scale, by_token=False)
    found = quantize_dynamic(between(x, activation, routing), spec, power_of_two=power)
    return Rows(codes=found.codes, scale=room.copy_(found.scale), by_token=False)


def between(y: torch.Tensor, activation: Activation, routing: Routing) -> torch.Tensor:
    """Rows [P, 2I] -> [P, I] in y's dtype, activated in float32; rows of nobody are zeros."""
    if y.is_cuda:  # any GPU: nothing is converted to FP8 here
        from fp8load_kernels.gpu.activation import activate

        return activate(y, activation, routing)
    return torch.where((routing.expert >= 0)[:, None], activated(y, activation), 0.0).to(y.dtype)


def on_gpu(x: torch.Tensor) -> bool:
    """Whether our kernels of `gpu` handle it; torch's operations do it anywhere."""
    return x.is_cuda and converts_to_e4m3(x.device)


class RowsOfTokens:
    """Sorting pairs and summing rows up, as all grouped backends of this package do it."""

    def route(self, ids_Tk: torch.Tensor, experts: range, alignment: int) -> Routing:
        """In one launch on a GPU, where pairs are few."""
        if not ids_Tk.is_cuda:
            return torch_route(ids_Tk, experts, alignment)
        from fp8load_kernels.gpu.routing import route

        return route(ids_Tk, experts, alignment)

    def combine(self, y_PN: torch.Tensor, routing: Routing, weights_Tk: torch.Tensor) -> torch.Tensor:
        """In one launch on a GPU."""
        if not y_PN.is_cuda:
            return combined(y_PN, routing, weights_Tk)
        from fp8load_kernels.gpu.routing import combine

        return combine(y_PN, routing, weights_Tk)


def _input(scheme: LinearScheme) -> QuantSpec:
    if scheme.input is None:
        raise ValueError(f"{scheme} does not quantize its input")
    return scheme.input


def _static(
    x: torch.Tensor, scale_E: torch.Tensor, spec: QuantSpec, routing: Routing, activation: Activation | None
) -> Rows:
    """Rows by the scale of their expert."""
    by_token = activation is None
    if activation is not None:
        x = between(x, activation, routing)
    if on_gpu(x):
        from fp8load_kernels.gpu.activation import quantize_by_expert

        found = quantize_by_expert(x, scale_E, routing, spec.dtype, by_token=by_token)
        return Rows(codes=found.codes, scale=found.scale, by_token=False)
    rows = x[routing.token.clamp_min(0)] if by_token else x
    scale = scale_E[routing.expert.clamp_min(0)].clamp_min(SMALLEST_SCALE)[:, None]
    return Rows(codes=to_codes(rows.float() / scale, spec.dtype), scale=scale, by_token=False)


def _fetched(codes_TK: torch.Tensor, scale_TG: torch.Tensor, routing: Routing, *, columns: bool) -> Rows:
    room = _room(routing.num_rows, scale_TG.shape[1], codes_TK.device, columns=columns)
    if codes_TK.is_cuda:
        from fp8load_kernels.gpu.routing import fetch

        codes, scale = fetch(codes_TK, scale_TG, routing, room)
        return Rows(codes=codes, scale=scale, by_token=False)
    token = routing.token.clamp_min(0)
    codes = codes_TK.view(torch.uint8)[token].view(codes_TK.dtype)
    return Rows(codes=codes, scale=room.copy_(scale_TG[token]), by_token=False)


def _room(num_rows: int, num_groups: int, device: torch.device, *, columns: bool) -> torch.Tensor:
    """Memory for scales [P, G], row by row or column by column."""
    if not columns:
        return torch.empty(num_rows, num_groups, device=device, dtype=torch.float32)
    return torch.empty(num_groups, aligned(num_rows, 4), device=device, dtype=torch.float32).t()[:num_rows]
