"""How peers quantize their inputs: by vLLM's kernels where its library is, else by ours."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fp8load.dtypes import DType
from fp8load.scheme import PerGroup, PerToken, QuantSpec
from fp8load_kernels.bench.peers.vllm import operators, refuses_library
from fp8load_kernels.quantize import quantize_dynamic

Quantizer = Callable[[], tuple[torch.Tensor, torch.Tensor]]
GROUP = 128


def quantizer_name() -> str:
    """Whose kernels quantize the inputs of peers."""
    return "fp8load's" if refuses_library() else "vLLM's"


def per_token(x_MK: torch.Tensor) -> Quantizer:
    """A call that gives codes [M, K] and float32 scales [M, 1]."""
    if refuses_library():
        return _ours(x_MK, QuantSpec(dtype=DType.F8_E4M3, granularity=PerToken()))
    codes = torch.empty(x_MK.shape, dtype=torch.float8_e4m3fn, device=x_MK.device)
    scale, vllm = torch.empty(x_MK.shape[0], 1, device=x_MK.device), operators()

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        vllm.dynamic_per_token_scaled_fp8_quant(codes, x_MK, scale, None)
        return codes, scale

    return run


def per_group(x_MK: torch.Tensor) -> Quantizer:
    """A call that gives codes [M, K] and float32 scales [M, K / 128], row by row."""
    if refuses_library():
        return _ours(x_MK, QuantSpec(dtype=DType.F8_E4M3, granularity=PerGroup(GROUP)))
    codes = torch.empty(x_MK.shape, dtype=torch.float8_e4m3fn, device=x_MK.device)
    scale, vllm = torch.empty(x_MK.shape[0], x_MK.shape[1] // GROUP, device=x_MK.device), operators()

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        vllm.per_token_group_fp8_quant(x_MK, codes, scale, GROUP, 1e-10, -448.0, 448.0, False, False, False)
        return codes, scale

    return run


def _ours(x_MK: torch.Tensor, spec: QuantSpec) -> Quantizer:
    def run() -> tuple[torch.Tensor, torch.Tensor]:
        quantized = quantize_dynamic(x_MK, spec)
        return quantized.codes, quantized.scale

    return run
