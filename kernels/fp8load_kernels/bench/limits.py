"""What a machine can do: the bandwidth of a large copy, measured; the peak of its tensor cores, from data sheets."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fp8load.scheme import LinearScheme
from fp8load_kernels.bench.clock import Clock
from fp8load_kernels.quantized import FP8_DTYPES


@dataclass(frozen=True, slots=True)
class Peak:
    """Dense TFLOP/s of FP8 and of BF16 tensor cores, float32 accumulation."""

    fp8: float
    bf16: float


PEAKS = {
    "NVIDIA H200": Peak(1979, 989), "NVIDIA H100 80GB HBM3": Peak(1979, 989), "NVIDIA H100 PCIe": Peak(1513, 756),
    "NVIDIA L4": Peak(242, 121), "NVIDIA L40S": Peak(733, 362), "NVIDIA B200": Peak(4500, 2250),
}  # fmt: skip
"""By torch's name of the GPU. Source: NVIDIA's data sheets, without sparsity."""

COPY_NBYTES = {"cuda": 1 << 30, "cpu": 1 << 28}


@dataclass(frozen=True, slots=True)
class Limits:
    """bandwidth: bytes per microsecond, read and written together. peak: None for an unknown device."""

    bandwidth: float
    peak: Peak | None

    @property
    def note(self) -> str:
        """What the limit is made of, for reports."""
        measured = f"max(bytes / {self.bandwidth / 1e3:.0f} GB/s measured"
        if self.bandwidth < 1e5:
            measured = f"max(bytes / {self.bandwidth / 1e3:.1f} GB/s measured"
        if self.peak is None:
            return measured.removeprefix("max(") + "; the peak of this device is not known, so bandwidth only"
        return f"{measured}, operations / {self.peak.fp8:.0f} TFLOP/s FP8 or {self.peak.bf16:.0f} BF16 dense)"

    def tflops(self, scheme: LinearScheme) -> float | None:
        """The peak that products of a scheme have; None where it is not known, as for FP4."""
        if self.peak is None:
            return None
        if scheme.input is None:
            return self.peak.bf16
        return self.peak.fp8 if {scheme.weight.dtype, scheme.input.dtype} <= FP8_DTYPES.keys() else None

    def us(self, nbytes: int, operations: int, scheme: LinearScheme) -> float:
        """The least time that a product of this scheme can take."""
        peak = self.tflops(scheme)
        return max(nbytes / self.bandwidth, 0.0 if peak is None else operations / (peak * 1e6))


def measured_limits(device: torch.device) -> Limits:
    """The limits of a device; takes a second, and twice `COPY_NBYTES` of its memory."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return Limits(copy_bandwidth(device), PEAKS.get(name))


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per microsecond of a large copy, read and written together."""
    source = torch.ones(COPY_NBYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    return 2 * source.numel() / Clock(device).us(lambda: target.copy_(source))
