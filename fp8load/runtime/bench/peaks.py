"""Peaks of memory while something is loaded, beyond what stays."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import torch

from fp8load.runtime.bench import host_memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """Bytes that were needed for a while.

    host    peak of the resident memory over what it is at the end, pinned memory that torch keeps for later given back;
            at least the peak of what torch had pinned. None where the system does not tell
    device  peak of what torch had on the GPU, over what it had before and the parameters; None on the CPU
    """

    host: int | None
    device: int | None


class Peaks:
    """Made before a loading, asked once after it, while the parameters are still there."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._on_gpu = device, device.type == "cuda"
        release(device)
        self._base = 0
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
            torch.cuda.memory.reset_peak_host_memory_stats()
            self._base = torch.cuda.memory_allocated(device)
        self._knows_host = host_memory.reset_peak()

    def beyond(self, nbytes_kept: int) -> Extra:
        """What was needed beyond the parameters, which take `nbytes_kept`."""
        peak = host_memory.peak_nbytes() if self._knows_host else 0
        pinned, on_device = 0, None
        if self._on_gpu:
            pinned = torch.cuda.memory.host_memory_stats().get("allocated_bytes.peak", 0)
            on_device = max(torch.cuda.max_memory_allocated(self._device) - self._base - nbytes_kept, 0)
            _give_back_pinned()
        on_host = max(peak - host_memory.resident_nbytes(), pinned) if self._knows_host else None
        return Extra(host=None if on_host is None else max(on_host, 0), device=on_device)


def release(device: torch.device) -> None:
    """Let go of what nothing refers to any more, here, on the device, and of pinned memory."""
    gc.collect()  # commands switch the collector off
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        _give_back_pinned()


def _give_back_pinned() -> None:
    """What torch keeps pinned for later. The function is public since torch 2.12 or so."""
    named = {**vars(torch._C), **vars(torch.accelerator)}
    give_back = named.get("empty_host_cache") or named.get("_host_emptyCache")
    if give_back is not None:
        give_back()
