"""Launching a Triton kernel in a few microseconds, and beginning it while the kernel before it ends.

Triton looks at every argument of every launch to find the variant that was compiled for it, which takes several times
as long as a product for few tokens. What a variant depends on is little: dtypes, whether addresses are multiples of 16,
numbers and constants. Looked up by these, a variant is launched directly. In a captured graph neither matters.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

MOST_VARIANTS = 4096
"""Launches that are remembered for a kernel; numbers of tokens are among what tells them apart."""


class Kernel:
    """A Triton kernel, of which constants come last: `kernel(grid, arguments, CONSTANT=..., num_warps=...)`."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.constants = [p.name for p in getattr(function, "params", []) if p.is_constexpr]
        self.variants: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}

    def __call__(self, grid: tuple[int, int, int], arguments: tuple[Any, ...], **constants: Any) -> None:
        """Run on the device of the first tensor."""
        first = arguments[0]
        if not first.is_cuda:
            self.function[grid](*arguments, **constants)
        elif first.device.index == torch.cuda.current_device():
            self._launch(grid, arguments, constants)
        else:
            with torch.cuda.device(first.device):
                self._launch(grid, arguments, constants)

    def _launch(self, grid: tuple[int, int, int], arguments: tuple[Any, ...], constants: dict[str, Any]) -> None:
        facts = [(each.dtype, each.data_ptr() % 16) if isinstance(each, torch.Tensor) else each for each in arguments]
        key = (arguments[0].device.index, *facts, *constants.values())
        found = self.variants.get(key)
        if found is None:
            compiled = self.function[grid](*arguments, **constants)
            if len(self.variants) >= MOST_VARIANTS:
                self.variants.clear()
            self.variants[key] = (compiled, tuple(constants[name] for name in self.constants))
            return
        compiled, rest = found
        compiled[grid](*arguments, *rest)


def kernel(function: Any) -> Kernel:
    """`triton.jit`, and launched as above."""
    return Kernel(triton.jit(function))


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
