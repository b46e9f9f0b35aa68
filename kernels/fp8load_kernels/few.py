"""The product for few tokens, for the backends that have another for many: what it is given, and when it is asked.

Every product of others is made for many tokens; up to 64 the own Triton kernel takes the least time, which is measured
(docs/benchmarks), needs no padding and takes any size, dtype and bias.
"""

from __future__ import annotations

import torch

from fp8load.runtime.backend import Prepared
from fp8load.scheme import LinearScheme, PerBlock, QuantSpec
from fp8load_kernels.quantizable import ROWS, powers_of_two
from fp8load_kernels.quantize import converts_to_e4m3, quantize_input
from fp8load_kernels.quantized import Quantized
from fp8load_kernels.shapes import contiguous_columns

FEW_ROWS = 64
"""Tokens up to which a product with scales by row goes to the own kernel."""

FEW_BLOCKS = 32
"""The same with blocks of scales beside torch's product."""


def by_rows(prepared: Prepared, x_MK: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x [M, K] -> [M, N] with one scale for each row of either operand."""
    from fp8load_kernels.gpu.few import Weight, few_product
    from fp8load_kernels.gpu.quantize import LONGEST_ROW

    weights, scale = prepared.weights, prepared.weight_scale
    scheme = weights.scheme
    if scale is None or scheme.input is None:
        raise ValueError(f"no scales of either operand: {scheme}")
    w = Weight(weights.weight, scale.view(-1, 1) if scale.numel() > 1 else scale.view(1, 1).expand(weights.shape[0], 1))
    if prepared.input_scale is None and scheme.input.granularity in ROWS and x_MK.shape[1] <= LONGEST_ROW:
        q = _by_row(x_MK, scheme, scheme.input)
        return few_product(q.codes, q.scale, w, x_MK.dtype, bias)
    q = quantize_input(x_MK, scheme, prepared.input_scale)
    return few_product(q.codes, q.scale.expand(len(x_MK), 1), w, x_MK.dtype, bias)


def quantized_rows(prepared: Prepared, x_MK: torch.Tensor) -> Quantized:
    """The input as the scheme says; replayed on a GPU where each row has a scale that is computed."""
    scheme, spec = prepared.weights.scheme, prepared.weights.scheme.input
    if spec is None or spec.granularity not in ROWS or prepared.input_scale is not None or not _replays(x_MK):
        return quantize_input(x_MK, scheme, prepared.input_scale)
    from fp8load_kernels.gpu.replay import replayed

    x = contiguous_columns(x_MK)

    def compute() -> tuple[torch.Tensor, torch.Tensor]:
        q = _by_row(x, scheme, spec)
        return q.codes, q.scale

    codes, scale = replayed(prepared, x, None, compute, what="rows")
    return Quantized(codes=codes, dtype=spec.dtype, scale=scale, cols=x.shape[1])


def _by_row(x_MK: torch.Tensor, scheme: LinearScheme, spec: QuantSpec) -> Quantized:
    from fp8load_kernels.gpu.quantize import quantize_rows

    return quantize_rows(x_MK, spec.dtype, power_of_two=powers_of_two(scheme, spec), upper=spec.upper_bound)


def _replays(x_MK: torch.Tensor) -> bool:
    """Whether rows are quantized by our kernel, in one launch."""
    if not (x_MK.is_cuda and x_MK.numel() and converts_to_e4m3(x_MK.device)):
        return False
    from fp8load_kernels.gpu.quantize import LONGEST_ROW

    return x_MK.shape[1] <= LONGEST_ROW


def few_by_rows(prepared: Prepared, x_MK: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`by_rows`, replayed where scales are computed for each row: then it is two or three launches."""
    from fp8load_kernels.gpu.replay import replayed

    spec = prepared.weights.scheme.input
    if prepared.input_scale is not None or spec is None or spec.granularity not in ROWS or not len(x_MK):
        return by_rows(prepared, x_MK, bias)
    (y_MN,) = replayed(prepared, x_MK, bias, lambda: (by_rows(prepared, x_MK, bias),))
    return y_MN


def by_blocks(
    quantized: Quantized,
    weight: tuple[torch.Tensor, torch.Tensor],
    block: tuple[int, int],
    *,
    dtype: torch.dtype,
    bias: torch.Tensor | None = None,
    row_of: torch.Tensor | None = None,
) -> torch.Tensor:
    """Codes of few tokens, or of many, times a weight with a grid of scales: the own kernel for either."""
    if len(quantized.codes) > FEW_ROWS:
        from fp8load_kernels.gpu.block import block_product

        return block_product(quantized.codes, quantized.scale, *weight, row_of, block, dtype, bias)
    from fp8load_kernels.gpu.few import Weight, few_product

    return few_product(quantized.codes, quantized.scale, Weight(*weight, block, row_of), dtype, bias)


def by_groups(prepared: Prepared, x_MK: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x [M, K] -> [M, rows of W], quantized in groups and multiplied by blocks; replayed."""
    from fp8load_kernels.gpu.quantize import quantize_groups
    from fp8load_kernels.gpu.replay import replayed

    scheme, scale = prepared.weights.scheme, prepared.weight_scale
    block, spec = scheme.weight.granularity, scheme.input
    if not isinstance(block, PerBlock) or scale is None or spec is None:
        raise TypeError(f"blocks have scales, and inputs of groups: {scheme}")

    def compute() -> tuple[torch.Tensor]:
        q = quantize_groups(x_MK, spec.dtype, block.cols, power_of_two=powers_of_two(scheme, spec))
        weight, sizes = (prepared.weight, scale), (block.rows, block.cols)
        return (by_blocks(q, weight, sizes, dtype=x_MK.dtype, bias=bias, row_of=prepared.grid_rows),)

    (y_MN,) = replayed(prepared, x_MK, bias, compute) if len(x_MK) else compute()
    return y_MN
