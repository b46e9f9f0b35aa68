"""Any number of leading axes as rows, and back; and what kernels need of an input and a machine."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from math import prod

import torch


def as_rows(x: torch.Tensor) -> torch.Tensor:
    """x [..., K] as [M, K]; M may be zero, and is 1 for a vector."""
    return x.reshape(prod(x.shape[:-1]), x.shape[-1])


def like_input(y_MN: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """y [M, N] with the leading axes of x [..., K]."""
    return y_MN.reshape(*x.shape[:-1], y_MN.shape[-1])


NO_TRITON = "needs triton, which is not installed"


@cache
def has_triton() -> bool:
    """Whether Triton is installed: torch brings it where it runs on CUDA."""
    return find_spec("triton") is not None


def contiguous_columns(x_MK: torch.Tensor) -> torch.Tensor:
    """x [M, K] with columns next to each other, as kernels read them; rows may be strided."""
    return x_MK if x_MK.shape[1] < 2 or x_MK.stride(1) == 1 else x_MK.contiguous()
