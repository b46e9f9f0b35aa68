"""Launching: what is compiled, what is launched directly, and on which device. With stand-ins for Triton and a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

launch = pytest.importorskip("fp8load_kernels.gpu.launch", reason="needs triton", exc_type=ImportError)


class OnGpu:
    """What a launch looks at of a tensor on a GPU."""

    is_cuda, dtype = True, torch.float32

    def __init__(self, address: int, device: int = 0) -> None:
        self.address, self.number, self.device = address, device, f"cuda:{device}"

    def data_ptr(self) -> int:
        return self.address

    def get_device(self) -> int:
        return self.number


class Function:
    """A function of Triton's: notes what is compiled, what is launched again, and calls back."""

    def __init__(self, called: Callable[[], None] = lambda: None) -> None:
        self.compiled: list[Any] = []
        self.launched: list[Any] = []
        self.called = called

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        def run(*given: Any, **constants: Any) -> dict[Any, Any]:
            self.called()
            self.compiled.append((given, constants))
            return {grid: lambda *again: self.launched.append(again)}

        return run


def test_a_variant_is_compiled_once_and_launched_directly_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "one_device", lambda: True)
    function, how = Function(), launch.Constants(BLOCK=64, num_warps=4)
    kernel = launch.Kernel(function)
    kernel.constants = ["BLOCK"]
    with launch.recorded() as launches:
        for address in (16, 32, 8, 24):
            kernel((2, 1, 1), (OnGpu(address),), (7,), how)

    assert len(function.compiled) == 2  # for addresses that are multiples of 16, and for others
    assert [again[1:] for again in function.launched] == [(7, 64)] * 2
    assert [one.rest for one in launches] == [(7, 64)] * 4


def test_a_kernel_runs_on_the_device_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    current, seen = [0], []

    @contextmanager
    def entered(device: str) -> Iterator[None]:
        before, current[0] = current[0], int(device[-1])
        yield
        current[0] = before

    monkeypatch.setattr(launch, "one_device", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "device", entered)
    kernel = launch.Kernel(Function(lambda: seen.append(current[0])))
    with launch.recorded() as launches:
        for device in (1, 0):
            kernel((1, 1, 1), (OnGpu(16, device),), (), launch.Constants())

    assert (seen, len(launches), current) == ([1, 0], 2, [0])
