"""What a peer is: like a backend, but it may lay its scales out beforehand, and is never chosen to load with."""

from __future__ import annotations

from typing import Protocol

import torch

from fp8load.dtypes import DType
from fp8load.runtime.backend import Device, LinearWeights, Verdict
from fp8load.scheme import LinearScheme, PerChannel, PerToken
from fp8load_kernels.bench.clock import Run
from fp8load_kernels.blocks import are_whole, refuses_hopper
from fp8load_kernels.quantize import CAPABILITY


class Peer(Protocol):
    """A way to compute the product of a layer that is not ours."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def supports(self, weights: LinearWeights, num_tokens: int, device: Device) -> Verdict:
        """Whether it is installed and takes this layer and number of tokens on this device."""
        ...

    def prepare(self, weights: LinearWeights, x_MK: torch.Tensor) -> Run:
        """A call that computes y [M, N] from x, its quantization included; what can be done before is done here."""
        ...


def refuses_rows(scheme: LinearScheme, device: Device) -> str:
    """Why a layer is none of FP8 with a scale for each row of the weight and of the input, on CUDA from 8.9 on."""
    given = scheme.input
    if given is None or scheme.weight.dtype is not DType.F8_E4M3 or given.dtype is not DType.F8_E4M3:
        return "takes weights and inputs of F8_E4M3"
    if scheme.weight.granularity != PerChannel() or given.granularity != PerToken() or scheme.input_static:
        return "takes weights per channel and dynamic inputs per token"
    if scheme.transforms or scheme.storage.transposed:
        return "takes plain [N, K] weights"
    if device.kind != "cuda" or device.capability is None or device.capability < CAPABILITY:
        return f"needs compute capability 8.9, and this is {device}"
    return ""


def refuses_blocks_of(weights: LinearWeights, device: Device, rows: int) -> str:
    """Why a layer is none for another's product of 128 x 128 blocks on Hopper."""
    reason = refuses_hopper(weights.scheme, weights.shape, device, rows)
    if reason:
        return reason
    return "" if are_whole(weights) else "takes fused parts of whole blocks"
