"""From stored codes and scales to float32: real = stored * scale, one multiplication for each element.

Shape letters: N rows, K columns, n x k the grid of scales, bn x bk a block. Codes and scales are decoded exactly (every
8-bit float fits float32), so the one rounding is that of the product. Two levels of scales are multiplied with each
other first, as the publishers of such checkpoints define it.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import assert_never

import torch

from fp8load.dtypes import DType, decode_table
from fp8load.runtime.dtypes import NAMES, as_bytes
from fp8load.scheme import (
    Granularity,
    NibbleOrder,
    PerBlock,
    PerChannel,
    PerGroup,
    PerTensor,
    PerToken,
    Storage,
    scale_shape,
)


def decode_scale(scale: torch.Tensor, dtype: DType | None = None) -> torch.Tensor:
    """Stored scales as float32, same shape.

    Bytes (U8 and F8_E8M0) are exponents: 2 ** (byte - 127), where byte 0 is 2 ** -127 and 255 is a NaN. `dtype` is the
    scale's dtype by its name in the file, for tensors whose torch dtype does not say it.
    """
    stored = dtype or NAMES[scale.dtype]
    if stored not in (DType.U8, DType.F8_E8M0):
        return scale.float()
    return _table(DType.F8_E8M0, scale.device)[as_bytes(scale).int()].reshape(scale.shape)


def decode_weight(weight: torch.Tensor, dtype: DType | None = None, storage: Storage | None = None) -> torch.Tensor:
    """Stored elements as float32: [..., N, K], where packed ones come as bytes [..., N, K * bits / 8].

    F4, I4: two in a byte. F6: four in three bytes, a stream of bits that begins with the lowest of the first byte.
    Raises `ValueError` for words in an order of their own, which readers turn into bytes.
    """
    stored = dtype or NAMES[weight.dtype]
    if stored.bits >= 8:
        return weight.float()
    data = as_bytes(weight).int()
    if stored.bits == 6:
        low, middle, high = data.reshape(*data.shape[:-1], -1, 3).unbind(-1)
        word = low | middle << 8 | high << 16
        codes = torch.stack([word >> shift & 63 for shift in (0, 6, 12, 18)], dim=-1)
        return _table(stored, weight.device)[codes].flatten(-2)
    halves = [data & 15, data >> 4]
    if storage is not None and storage.nibble_order is NibbleOrder.EVEN_FIRST:
        raise ValueError(f"elements in {storage.nibble_order} words have to be put in order while reading")
    if storage is not None and storage.nibble_order is NibbleOrder.HIGH_FIRST:
        halves.reverse()
    return _table(stored, weight.device)[torch.stack(halves, dim=-1)].flatten(-2)


@cache
def _table(dtype: DType, device: torch.device) -> torch.Tensor:
    """256 values on the device; kept, because a captured CUDA graph may not copy from the host."""
    return torch.from_numpy(decode_table(dtype)).to(device)


def multiply_blocks_(values: torch.Tensor, scale: torch.Tensor, block: PerBlock) -> torch.Tensor:
    """Multiply `values` [..., N, K] by `scale` [..., n, k] in place; the last block of either axis may be partial."""
    *lead, num_rows, num_cols = values.shape
    wide = scale.repeat_interleave(block.cols, dim=-1)[..., :num_cols]
    num_full = num_rows // block.rows
    cut = num_full * block.rows
    body = values[..., :cut, :].view(*lead, num_full, block.rows, num_cols)
    body.mul_(wide[..., :num_full, None, :])
    values[..., cut:, :].mul_(wide[..., num_full:, :])
    return values


def multiply_(values: torch.Tensor, scale: torch.Tensor, granularity: Granularity) -> torch.Tensor:
    """Multiply float32 `values` [..., N, K] in place by float32 scales; returns `values`.

    Leading axes (experts) are the same for both. The scale has as many elements as its canonical shape, in the same
    order: [N], [N, 1] and [bo, 1, bi, 1] are read. Raises `ValueError` for another number of elements.
    """
    shape = tuple(values.shape)
    canonical = (*shape[:-2], 1, 1) if granularity == PerTensor() else scale_shape(granularity, shape)
    if scale.numel() != prod(canonical):
        raise ValueError(f"a scale {list(scale.shape)} does not fit {list(shape)} {granularity}: {list(canonical)}")
    factors = scale.reshape(canonical)
    match granularity:
        case PerTensor() | PerChannel() | PerToken():
            return values.mul_(factors)
        case PerGroup(cols=cols):
            return multiply_blocks_(values, factors, PerBlock(1, cols))
        case PerBlock():
            return multiply_blocks_(values, factors, granularity)
        case _:
            assert_never(granularity)


def transform_(
    values: torch.Tensor,
    *,
    pre_quant_scale: torch.Tensor | None = None,
    low_rank: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """What a weight is to an input that was not scaled, in place: (W + B @ A) * s, for s [K] and A [r, K], B [N, r].

    The residual is summed in float64 and rounded to float32 once, so that it does not depend on how a weight is split.
    """
    if low_rank is not None:
        a, b = low_rank
        values.add_((b.double() @ a.double()).float())
    return values if pre_quant_scale is None else values.mul_(pre_quant_scale.float().reshape(1, -1))


def dequantize(
    weight: torch.Tensor,
    scale: torch.Tensor,
    granularity: Granularity,
    *,
    dtype: DType | None = None,
    storage: Storage | None = None,
    scale_dtype: DType | None = None,
    global_scale: torch.Tensor | None = None,
    divides: bool = False,
) -> torch.Tensor:
    """One stored weight [..., N, K] and its scale as float32 [..., N, K].

    `scale` may be in any dialect of its granularity; bytes are E8M0. `dtype`, `storage` and `scale_dtype` are the
    scheme's, where torch's dtypes do not say it (F4 comes as bytes). `global_scale` is a scale of the scales, one
    number; `divides`: the file stores its reciprocal. Raises `ValueError` where the shapes contradict each other.
    """
    values = decode_weight(weight, dtype, storage)
    if weight.dtype == torch.float32:
        values = values.clone()  # the product is written in place
    factors = decode_scale(scale, scale_dtype)
    if global_scale is not None:
        number = global_scale.float().reshape(())
        factors = factors / number if divides else factors * number
    return multiply_(values, factors, granularity)
