"""Launching a Triton kernel in a few microseconds, and beginning it while the kernel before it ends.

Triton looks at every argument of every launch to find the variant that was compiled for it, which takes several times
as long as a product for few tokens. What a variant depends on is little: dtypes, whether addresses are multiples of 16,
numbers and constants. Looked up by these, a variant is launched directly. In a captured graph neither matters.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

MOST_VARIANTS = 4096
"""Launches that are remembered for a kernel; numbers of tokens are among what tells them apart."""


class Constants:
    """Constants and options of a launch. Told apart by identity, which takes no time: whoever launches keeps them."""

    __slots__ = ("given",)

    def __init__(self, **given: Any) -> None:
        self.given = given


@lru_cache(4096)
def constants(**given: Any) -> Constants:
    """Constants that are the same object whenever they are the same."""
    return Constants(**given)


class Plan(NamedTuple):
    """How a product of given sizes is launched: its grid, and into how many pieces its sums are cut."""

    grid: tuple[int, int, int]
    splits: int
    constants: Constants


class Launched(NamedTuple):
    """A launch that took place: `run(*tensors, *rest)` does it again, for tensors of the same kind."""

    run: Callable[..., None]
    tensors: tuple[torch.Tensor, ...]
    rest: tuple[object, ...]


class _Recording(threading.local):
    launches: list[Launched] | None = None


_recording = _Recording()


@contextmanager
def recorded() -> Iterator[list[Launched]]:
    """The launches of this thread, while it lasts. Not nested."""
    _recording.launches = []
    try:
        yield _recording.launches
    finally:
        _recording.launches = None


class Kernel:
    """A Triton kernel whose parameters are tensors, then numbers, then constants."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.constants = [param.name for param in getattr(function, "params", []) if param.is_constexpr]
        self.variants: dict[tuple[Any, ...], tuple[Callable[..., None], tuple[Any, ...]]] = {}

    def __call__(
        self,
        grid: tuple[int, int, int],
        tensors: tuple[torch.Tensor, ...],
        numbers: tuple[int | float, ...],
        constants: Constants,
    ) -> None:
        """Run on the device of the first tensor; where there is no GPU, interpreted."""
        first = tensors[0]
        if not first.is_cuda:
            run, rest = self._interpreted(grid, constants), tuple[Any, ...]()
            run(*tensors, *numbers)
        elif not one_device() and first.get_device() != torch.cuda.current_device():
            with torch.cuda.device(first.device):
                self(grid, tensors, numbers, constants)
            return
        else:
            facts = [(each.dtype, each.data_ptr() % 16) for each in tensors]
            key = (constants, grid, numbers, first.get_device(), *facts)
            found = self.variants.get(key)
            if found is not None:
                run, rest = found
                run(*tensors, *numbers, *rest)
            else:
                compiled = self.function[grid](*tensors, *numbers, **constants.given)
                if len(self.variants) >= MOST_VARIANTS:
                    self.variants.clear()
                run, rest = compiled[grid], tuple(constants.given[name] for name in self.constants)
                self.variants[key] = run, rest
        if _recording.launches is not None:
            _recording.launches.append(Launched(run, tensors, (*numbers, *rest)))

    def _interpreted(self, grid: tuple[int, int, int], constants: Constants) -> Callable[..., None]:
        def run(*given: Any) -> None:
            self.function[grid](*given, **constants.given)

        return run


def kernel(function: Any) -> Kernel:
    """`triton.jit`, and launched as above."""
    return Kernel(triton.jit(function))


@cache
def one_device() -> bool:
    """Whether there is one GPU only, so that it need not be asked for."""
    return torch.cuda.device_count() == 1


@cache
def overlaps(device: torch.device) -> bool:
    """Whether a kernel may begin while the one before it ends (programmatic dependent launch): NVIDIA's from 9.0 on.

    A kernel that is launched so waits before it reads what others write, hence nothing changes but the gap between
    them. FP8LOAD_NO_OVERLAP=1 is for those who look for a fault.
    """
    if device.type != "cuda" or torch.version.hip is not None or os.environ.get("FP8LOAD_NO_OVERLAP"):
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0)


@triton.jit
def prefetch(address):
    """Ask for the lines of the L2 that hold these addresses; nothing waits for them."""
    tl.inline_asm_elementwise(
        asm="prefetch.global.L2 [$1]; mov.b32 $0, 0;", constraints="=r,l", args=[address], dtype=tl.int32,
        is_pure=False, pack=1,
    )  # fmt: skip
