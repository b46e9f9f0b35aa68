"""Quantize activations as a scheme says: FP8 here, `quantize_mx` and `quantize_nvfp4` beside it.

FP8 is per tensor, per token or per group of columns, with stored or computed scales. real = code * scale throughout.
Shape letters: M rows (tokens), K columns, G groups of g columns.
"""

from __future__ import annotations

from functools import cache
from typing import assert_never

import torch

from fp8load.dtypes import DType
from fp8load.runtime.backend import No
from fp8load.scheme import LinearScheme, PerTensor, QuantSpec
from fp8load_kernels.quantizable import InputKind, input_kind, powers_of_two
from fp8load_kernels.quantize_mx import quantize_mx
from fp8load_kernels.quantize_nvfp4 import quantize_nvfp4
from fp8load_kernels.quantized import FP8_DTYPES, SMALLEST_SCALE, Quantized
from fp8load_kernels.shapes import contiguous_columns, has_triton
from fp8load_kernels.torch_quantize import cols_of, round_up_to_power_of_two, torch_dynamic, torch_static

__all__ = [
    "FP8_DTYPES",
    "Quantized",
    "quantize_dynamic",
    "quantize_input",
    "quantize_mx",
    "quantize_nvfp4",
    "quantize_static",
    "round_up_to_power_of_two",
]

CAPABILITY = (8, 9)
"""The first NVIDIA GPUs that convert to E4M3."""


def quantize_static(x_MK: torch.Tensor, dtype: DType, scale: torch.Tensor) -> Quantized:
    """Divide by one stored scale (float32, one element), clamp to the largest finite value, round to nearest even."""
    if not _takes(x_MK, dtype):
        return torch_static(x_MK, dtype, scale)
    from fp8load_kernels.gpu import quantize as kernels

    smallest = scale.float().reshape(1).clamp_min(SMALLEST_SCALE)
    return kernels.quantize_tensor(contiguous_columns(x_MK), dtype, smallest)


def quantize_dynamic(x_MK: torch.Tensor, spec: QuantSpec, *, power_of_two: bool = False) -> Quantized:
    """Compute scales so that the largest magnitude of each piece becomes the largest finite code of FP8.

    `spec.granularity` is the piece: the tensor, a row, or a group of a row (PerBlock: its columns). `power_of_two`
    rounds scales up to a power of two, as DeepSeek's `ue8m0` does; MX has rules of its own, see `quantize_mx`. A NaN or
    infinity makes NaNs of its piece, as it should. On a GPU one launch of Triton, where Triton is installed; by torch's
    operations elsewhere.
    """
    cols = cols_of(spec.granularity, x_MK.shape[1])
    if not _takes(x_MK, spec.dtype) or (cols & (cols - 1) and cols != x_MK.shape[1]):
        return torch_dynamic(x_MK, spec, power_of_two=power_of_two)
    from fp8load_kernels.gpu import quantize as kernels

    x = contiguous_columns(x_MK)
    if spec.granularity == PerTensor():
        return kernels.quantize_tensor(x, spec.dtype, kernels.largest_scale(x, spec.dtype, power_of_two=power_of_two))
    if cols < x.shape[1]:
        return kernels.quantize_groups(x, spec.dtype, cols, power_of_two=power_of_two)
    if cols > kernels.LONGEST_ROW:
        return torch_dynamic(x, spec, power_of_two=power_of_two)
    return kernels.quantize_rows(x, spec.dtype, power_of_two=power_of_two, upper=spec.upper_bound)


def _mx(x_MK: torch.Tensor, spec: QuantSpec) -> Quantized:
    """On a GPU one launch of Triton, for E4M3 and E2M1; by torch's operations elsewhere."""
    cols = cols_of(spec.granularity, x_MK.shape[1])
    if spec.dtype not in (DType.F8_E4M3, DType.F4) or not _takes(x_MK, DType.F8_E4M3) or cols & (cols - 1):
        return quantize_mx(x_MK, spec.dtype, cols, spec.exponent)
    from fp8load_kernels.gpu import quantize_micro as kernels

    return kernels.quantize_mx(contiguous_columns(x_MK), spec.dtype, cols, spec.exponent)


def _nvfp4(x_MK: torch.Tensor, spec: QuantSpec, global_scale: torch.Tensor | None) -> Quantized:
    """As `_mx`; two launches where the global scale is computed."""
    cols = cols_of(spec.granularity, x_MK.shape[1])
    if not _takes(x_MK, DType.F8_E4M3) or cols & (cols - 1):
        return quantize_nvfp4(x_MK, global_scale, cols)
    from fp8load_kernels.gpu import quantize_micro as kernels

    return kernels.quantize_nvfp4(contiguous_columns(x_MK), global_scale, cols)


def _takes(x_MK: torch.Tensor, dtype: DType) -> bool:
    """Whether our kernel quantizes this; torch's operations do it anywhere."""
    return dtype is DType.F8_E4M3 and x_MK.is_cuda and converts_to_e4m3(x_MK.device)


@cache
def converts_to_e4m3(device: torch.device) -> bool:
    """Whether Triton is there and converts to E4M3 on a GPU: NVIDIA's from 8.9 on; AMD's have another kind of it."""
    return torch.version.hip is None and has_triton() and torch.cuda.get_device_capability(device) >= CAPABILITY


def quantize_input(
    x_MK: torch.Tensor,
    scheme: LinearScheme,
    static_scale: torch.Tensor | None,
    global_scale: torch.Tensor | None = None,
) -> Quantized:
    """Quantize a layer's input [M, K] as its scheme says.

    `static_scale` is the stored scale of the input, `global_scale` the stored multiplier of its block scales (NVFP4);
    both float32 of one element, None where they are computed from the input. Raises `ValueError` for a weight-only
    scheme and for one that `input_kind` refuses.
    """
    kind, spec = input_kind(scheme), scheme.input
    if isinstance(kind, No):
        raise ValueError(f"{scheme}: {kind.reason}")  # noqa: TRY004  # a scheme's value, not an argument's type
    if spec is None or kind is InputKind.NONE:
        raise ValueError(f"{scheme} does not quantize its input")
    match kind:
        case InputKind.MX:
            return _mx(x_MK, spec)
        case InputKind.NVFP4:
            return _nvfp4(x_MK, spec, global_scale)
        case InputKind.FP8:
            if scheme.input_static and static_scale is not None:
                return quantize_static(x_MK, spec.dtype, static_scale)
            return quantize_dynamic(x_MK, spec, power_of_two=powers_of_two(scheme, spec))
        case _:
            assert_never(kind)
