"""Random operands of a scheme: weights as a loaded layer holds them, and an input with outliers.

Shape letters: N output rows, K input columns, M tokens, r the rank of a residual.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from fp8load.dtypes import LARGEST_FINITE, DType
from fp8load.runtime.backend import LinearWeights, Part
from fp8load.scheme import LinearScheme, PerTensor, ScaleRounding, Transform, scale_shape
from fp8load_kernels.quantized import FP8_DTYPES

SIZE = 0.02
"""Root mean square of a weight, about that of trained ones."""

OUTLIER_EVERY, OUTLIER = 97, 8.0
"""Columns of an input whose values are larger, and how much: what a few channels of trained models are like."""

INPUT_RANGE = 40.0
"""What the stored scales of a static input reach to: hardly anything of `random_input` is larger."""


def refuses_operands(scheme: LinearScheme) -> str:
    """Why no weights of a scheme are made here; nothing where they are. Pure."""
    dtype, scale = scheme.weight.dtype, scheme.weight.scale_dtype
    if not (dtype in FP8_DTYPES or dtype.bits < 8 or dtype is DType.I8):
        return f"no random weights of {dtype} are made"
    if not (scale is None or scale.is_wide_float or scale in (DType.F8_E4M3, DType.F8_E8M0, DType.U8)):
        return f"no random scales of {scale} are made"
    if Transform.ROTATION in scheme.transforms or scheme.storage.transposed or scheme.storage.interleaved:
        return "no weights are made that are rotated, transposed or interleaved"
    return ""


def random_weights(
    scheme: LinearScheme, parts: Sequence[tuple[str, int]], num_cols: int, generator: torch.Generator
) -> LinearWeights:
    """A layer of these parts (slot, rows), filled with random codes and scales on the generator's device.

    Raises `ValueError` for a scheme of which `refuses_operands` says why not.
    """
    reason = refuses_operands(scheme)
    if reason:
        raise ValueError(reason)
    num_rows, found = sum(rows for _, rows in parts), []
    row = at = 0
    for slot, rows in parts:
        height = scale_shape(scheme.weight.granularity, (rows, num_cols))[0]
        found.append(Part(slot, slice(row, row + rows), slice(at, at + height)))
        row, at = row + rows, at + height
    width = scale_shape(scheme.weight.granularity, (num_rows, num_cols))[1:]
    per_tensor = scheme.weight.granularity == PerTensor()
    second, given = scheme.second_level, scheme.input_global
    rank = scheme.residual_rank if Transform.LOW_RANK_RESIDUAL in scheme.transforms else 0
    factor = _uniform((len(parts), num_cols), 0.5, 1.5, generator)
    return LinearWeights(
        scheme=scheme, shape=(num_rows, num_cols), parts=tuple(found),
        weight=_codes(scheme.weight.dtype, (num_rows, num_cols), generator),
        weight_scale=_scales(scheme, (at,) if per_tensor else (at, *width), generator),
        weight_global_scale=None if second is None else _numbers(len(parts), 0.02, generator, divides=second.divides),
        input_scale=_numbers(len(parts), INPUT_RANGE / 448, generator) if scheme.input_static else None,
        input_global_scale=None if given is None else _numbers(
            len(parts), INPUT_RANGE / (6 * 448), generator, divides=given.divides
        ),
        pre_quant_scale=factor if Transform.PRE_QUANT_SCALE in scheme.transforms else None,
        low_rank_a=_normal((len(parts) * rank, num_cols), SIZE, generator) if rank else None,
        low_rank_b=_normal((num_rows, rank), SIZE, generator) if rank else None,
    )  # fmt: skip


def random_input(num_tokens: int, num_cols: int, generator: torch.Generator) -> torch.Tensor:
    """x [M, K] in BF16, normal, every `OUTLIER_EVERY`th column `OUTLIER` times as large."""
    x_MK = _normal((num_tokens, num_cols), 1.0, generator)
    x_MK[:, ::OUTLIER_EVERY] *= OUTLIER
    return x_MK.to(torch.bfloat16)


def weight_nbytes(weights: LinearWeights) -> int:
    """Bytes of the weight and its scales, which every product has to read."""
    held = (weights.weight, weights.weight_scale, weights.weight_global_scale, weights.pre_quant_scale,
            weights.low_rank_a, weights.low_rank_b)  # fmt: skip
    return sum(tensor.numel() * tensor.itemsize for tensor in held if tensor is not None)


def _codes(dtype: DType, shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """FP8 as a normal distribution over its range; of packed and whole numbers every code is as likely."""
    if dtype in FP8_DTYPES:
        largest = LARGEST_FINITE[dtype]
        return _normal(shape, largest / 4, generator).clamp_(-largest, largest).to(FP8_DTYPES[dtype])
    num_rows, num_cols = shape
    if dtype is DType.I8:
        return torch.randint(-127, 128, shape, generator=generator, device=generator.device, dtype=torch.int8)
    num_bytes, rest = divmod(num_cols * dtype.bits, 8)
    if rest:
        raise ValueError(f"rows of {num_cols} elements of {dtype} do not fill whole bytes")
    return torch.randint(0, 256, (num_rows, num_bytes), generator=generator, device=generator.device, dtype=torch.uint8)


def _scales(scheme: LinearScheme, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Scales that give weights of about `SIZE`, as memory holds them."""
    stored = scheme.weight.scale_dtype
    if stored in (DType.F8_E8M0, DType.U8):
        exponents = torch.randint(112, 120, shape, generator=generator, device=generator.device, dtype=torch.uint8)
        return exponents.view(torch.float8_e8m0fnu) if stored is DType.F8_E8M0 else exponents
    if stored is DType.F8_E4M3:
        return _uniform(shape, 0.25, 2, generator).to(torch.float8_e4m3fn)
    typical = SIZE * 4 / LARGEST_FINITE.get(scheme.weight.dtype, 2.0 ** (scheme.weight.dtype.bits - 1))
    scale = _uniform(shape, typical / 2, typical * 2, generator)
    return scale.log2_().round_().exp2_() if scheme.rounding is ScaleRounding.POWER_OF_TWO else scale


def _numbers(count: int, typical: float, generator: torch.Generator, *, divides: bool = False) -> torch.Tensor:
    """One number for each part, float32, within ten per cent of each other; its reciprocal where files store that."""
    numbers = _uniform((count,), typical * 0.9, typical * 1.1, generator)
    return numbers.reciprocal_() if divides else numbers


def _normal(shape: tuple[int, ...], size: float, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32).mul_(size)


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    if not prod(shape):
        return torch.empty(shape, device=generator.device)
    return torch.rand(shape, generator=generator, device=generator.device).mul_(high - low).add_(low)
