"""The backends of this package, fastest first."""

from __future__ import annotations

from fp8load.runtime.backend import Backend, Device
from fp8load_kernels.backends.deepgemm import DeepGemm
from fp8load_kernels.backends.emulated import Emulated
from fp8load_kernels.backends.reference import Reference
from fp8load_kernels.backends.torch_block import TorchBlock
from fp8load_kernels.backends.torch_scaled_mm import TorchScaledMM
from fp8load_kernels.backends.triton_block import TritonBlock


def provider(device: Device) -> tuple[Backend, ...]:
    """Candidates in order. `reference` comes last: it ignores the input quantization, so it is for those who ask."""
    del device
    return TorchScaledMM(), DeepGemm(), TorchBlock(), TritonBlock(), Emulated(), Reference()
