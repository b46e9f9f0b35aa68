"""The backends of this package, fastest first."""

from __future__ import annotations

from fp8load.runtime.backend import Backend, Device
from fp8load.runtime.grouped import GroupedBackend
from fp8load_kernels.backends.deepgemm import DeepGemm
from fp8load_kernels.backends.emulated import Emulated
from fp8load_kernels.backends.reference import Reference
from fp8load_kernels.backends.torch_block import TorchBlock
from fp8load_kernels.backends.torch_mx import TorchMX
from fp8load_kernels.backends.torch_scaled_mm import TorchScaledMM
from fp8load_kernels.backends.triton_block import TritonBlock
from fp8load_kernels.backends.weight_only import TritonWeightOnly
from fp8load_kernels.grouped.deepgemm_grouped import DeepGemmGrouped
from fp8load_kernels.grouped.torch_grouped import TorchGrouped
from fp8load_kernels.grouped.triton_grouped import TritonGrouped
from fp8load_kernels.grouped.weight_only_grouped import WeightOnlyGrouped
from fp8load_kernels.quantize import CAPABILITY


def provider(device: Device) -> tuple[Backend, ...]:
    """Candidates in order. `reference` comes last: it ignores the input quantization, so it is for those who ask.

    A GPU without FP8 units runs every scheme weight-only; one that has them does so where they do not help (FP4 and
    groups of 32, before Blackwell).
    """
    fp8 = (TorchScaledMM(), DeepGemm(), TorchBlock(), TritonBlock(), TorchMX())
    weight_only = (TritonWeightOnly(),)
    own = (*weight_only, *fp8) if _is_old(device) else (*fp8, *weight_only)
    return (*own, Emulated(), Reference())


def grouped_provider(device: Device) -> tuple[GroupedBackend, ...]:
    """Candidates for stacks of experts, in order: products of FP8 by FP8 where there are units for them, weight-only
    for other schemes and other GPUs. What none of them takes runs one expert after the other."""
    fp8, weight_only = (TorchGrouped(), DeepGemmGrouped(), TritonGrouped()), WeightOnlyGrouped()
    return (weight_only, *fp8) if _is_old(device) else (*fp8, weight_only)


def _is_old(device: Device) -> bool:
    """Whether it is a GPU without FP8 units."""
    return device.kind == "cuda" and device.capability is not None and device.capability < CAPABILITY
