"""E2M1, the 4-bit float of MXFP4 and NVFP4: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.

Source: OCP Microscaling Formats 1.0, section 5.3.3. Codes are handled one to a byte, sign in bit 3.
"""

from __future__ import annotations

from functools import cache

import torch

from fp8load.dtypes import LARGEST_FINITE, DType, decode_table


def to_e2m1(x: torch.Tensor) -> torch.Tensor:
    """float32 of any shape -> codes, U8 of that shape: to the nearest, ties to the even code, beyond 6 to 6.

    The sign of zero is kept. There is no NaN: it becomes a zero, and its scale has to tell.
    """
    magnitude = x.nan_to_num(0.0).abs().clamp_max(LARGEST_FINITE[DType.F4])
    # Below 2 the codes count halves, below 4 ones, then twos, so an even multiple is an even code.
    halves, ones, twos = torch.round(magnitude * 2), torch.round(magnitude) + 2, torch.round(magnitude / 2) + 4
    code = torch.where(magnitude < 2, halves, torch.where(magnitude < 4, ones, twos)).to(torch.uint8)
    return code | x.signbit().to(torch.uint8) << 3


def from_e2m1(codes: torch.Tensor) -> torch.Tensor:
    """Codes, U8 of any shape, one to a byte -> float32 of that shape, exact."""
    return _values(codes.device)[codes.int()]


def pack(codes_MK: torch.Tensor) -> torch.Tensor:
    """Codes [M, K], one to a byte -> bytes [M, ceil(K / 2)] as files and kernels have them, low nibble first.

    An odd K ends in a zero.
    """
    even = torch.nn.functional.pad(codes_MK, (0, codes_MK.shape[1] % 2))
    return even[:, 0::2] | even[:, 1::2] << 4


@cache
def _values(device: torch.device) -> torch.Tensor:
    """On the device; kept, because a captured CUDA graph may not copy from the host."""
    return torch.from_numpy(decode_table(DType.F4)).to(device)
