"""A device by its name: `sm90` is one whether or not it is here, `cuda` is one of this machine."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from fp8load.engines.gpus import GPUS, Gpu, find_nvidia
from fp8load.errors import BackendError, Problem, UsageError
from fp8load.runtime.backend import Device, device_of


def parse_device(text: str) -> Device:
    """The device that `text` names: "cpu", "cuda" (the GPU of this machine), "auto" (that, else its CPU), "sm90", ...

    Raises `UsageError` USE021 for another name, and for GPUs that are not NVIDIA's: no backend knows those; and
    `BackendError` BKD802 for "cuda" where there is none.
    """
    wanted = text.strip().lower()
    if wanted == "cpu":
        return Device(kind="cpu")
    if wanted == "auto":
        return device_of(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if wanted == "cuda":
        return device_of(torch_device(wanted))
    gpu = find_nvidia(wanted)
    return Device(kind="cuda", capability=(gpu.capability // 10, gpu.capability % 10), name=gpu.name)


def gpu_of(device: Device) -> Gpu | None:
    """What is known of the architecture of a device, if anything."""
    if device.capability is None:
        return None
    return GPUS.get(f"sm{device.capability[0]}{device.capability[1]}")


def torch_device(device: str | torch.device) -> torch.device:
    """The device, a GPU with its number, if torch knows it and can use it here.

    Raises `UsageError` or `BackendError`.
    """
    try:
        where = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UsageError(Problem(code="USE013", message="torch knows no such device", expected="cpu, cuda, cuda:1, ...",
                                 got=str(device))) from error  # fmt: skip
    if where.type == "meta":
        raise UsageError(Problem(code="USE013", message="nothing can be loaded to a device that holds no data",
                                 expected="cpu, cuda, cuda:1, ...", got="meta",
                                 hint="`Checkpoint.plan` says what a load would make, without memory"))  # fmt: skip
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        found = f"{torch.cuda.device_count()} CUDA devices, torch {torch.__version__}"
        raise BackendError(Problem(code="BKD802", message="the device is not there", expected=str(where), got=found,
                                   hint="`fp8load doctor` says what runs here; the CPU always does"))  # fmt: skip
    if where.type == "cuda" and where.index is None:
        return torch.device("cuda", torch.cuda.current_device())  # torch.cuda.set_device wants a number
    return where


def current(device: torch.device) -> AbstractContextManager[object]:
    """A context in which a GPU is the current one, as streams and torch.distributed want it."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
