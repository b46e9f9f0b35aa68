"""Schemes, parts on disk, and a dequantization in numpy that shares nothing with the one under test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fp8load.dtypes import DType
from fp8load.scheme import (
    Granularity,
    LinearScheme,
    PerBlock,
    PerChannel,
    PerGroup,
    PerTensor,
    PerToken,
    QuantSpec,
    Role,
    ScaleRounding,
)

TORCH = {DType.F32: torch.float32, DType.BF16: torch.bfloat16, DType.F16: torch.float16, DType.U8: torch.uint8,
         DType.F8_E8M0: torch.float8_e8m0fnu, DType.F8_E4M3: torch.float8_e4m3fn}  # fmt: skip


TENSOR = PerTensor()


def scheme(
    weight: Granularity = TENSOR,
    scale: DType = DType.F32,
    given: Granularity | None = None,
    *,
    static: bool = False,
) -> LinearScheme:
    """E4M3 weights; `given` is the input's granularity, None for weight-only."""
    spec = (
        None
        if given is None
        else QuantSpec(dtype=DType.F8_E4M3, granularity=given, scale_dtype=DType.F32 if static else None)
    )
    rounding = ScaleRounding.POWER_OF_TWO if scale in (DType.U8, DType.F8_E8M0) else ScaleRounding.ANY
    return LinearScheme(
        weight=QuantSpec(dtype=DType.F8_E4M3, granularity=weight, scale_dtype=scale),
        input=spec, input_static=static, rounding=rounding,
    )  # fmt: skip


STATIC = scheme(given=PerTensor(), static=True)
DYNAMIC = scheme(given=PerTensor())
CHANNEL = scheme(PerChannel(), given=PerToken())
BLOCK = scheme(PerBlock(128, 128), given=PerGroup(128))
MXFP8 = scheme(PerGroup(32), DType.F8_E8M0, PerGroup(32))
WEIGHT_ONLY = scheme(PerChannel())


def codes(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    """E4M3 weights without NaNs."""
    data = rng.integers(0, 256, shape, dtype=np.uint8)
    data[data & 0x7F == 0x7F] = 0x30
    return torch.from_numpy(data).view(torch.float8_e4m3fn)


def scales(rng: np.random.Generator, dtype: DType, *shape: int) -> torch.Tensor:
    """Positive scales, as stored."""
    if dtype in (DType.U8, DType.F8_E8M0):
        return torch.from_numpy(rng.integers(110, 130, shape, dtype=np.uint8)).view(TORCH[dtype])
    return torch.from_numpy(rng.uniform(1e-3, 2.0, shape).astype(np.float32)).to(TORCH[dtype])


def grid(granularity: Granularity, num_rows: int, num_cols: int) -> tuple[int, ...]:
    """Shape of a scale on disk, written out again."""
    match granularity:
        case PerTensor():
            return (1,)
        case PerChannel():
            return (num_rows, 1)
        case PerBlock(rows=bn, cols=bk):
            return ((num_rows + bn - 1) // bn, (num_cols + bk - 1) // bk)
        case PerGroup(cols=g):
            return (num_rows, (num_cols + g - 1) // g)
    raise ValueError(granularity)


@dataclass
class Part:
    """One module on disk."""

    weight: torch.Tensor
    scale: torch.Tensor
    input_scale: torch.Tensor
    bias: torch.Tensor

    def of(self, role: Role) -> torch.Tensor:
        return {Role.WEIGHT: self.weight, Role.WEIGHT_SCALE: self.scale, Role.INPUT_SCALE: self.input_scale,
                Role.BIAS: self.bias}[role]  # fmt: skip


def part(rng: np.random.Generator, layer: LinearScheme, num_rows: int, num_cols: int) -> Part:
    """A random module [num_rows, num_cols]."""
    stored = layer.weight.scale_dtype
    assert stored is not None
    return Part(
        weight=codes(rng, num_rows, num_cols),
        scale=scales(rng, stored, *grid(layer.weight.granularity, num_rows, num_cols)),
        input_scale=scales(rng, DType.F32, 1),
        bias=torch.from_numpy(rng.normal(size=num_rows).astype(np.float32)).bfloat16(),
    )


def fused(parts: list[Part]) -> Part:
    """One tensor for all parts, stacked."""
    return Part(*(torch.cat([one.of(role).view(torch.uint8) for one in parts]).view(parts[0].of(role).dtype)
                  for role in (Role.WEIGHT, Role.WEIGHT_SCALE, Role.INPUT_SCALE, Role.BIAS)))  # fmt: skip


def e4m3(data: torch.Tensor) -> np.ndarray:
    """E4M3 codes as float32, from their bits."""
    byte = data.view(torch.uint8).numpy().astype(np.int64)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    value = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7))
    return np.where(byte >> 7, -value, value).astype(np.float32)


def numbers(scale: torch.Tensor) -> np.ndarray:
    """Stored scales as float32, from their bits."""
    if scale.element_size() == 1:
        exponent = scale.view(torch.uint8).numpy().astype(np.float64) - 127
        return np.exp2(exponent).astype(np.float32)
    if scale.dtype == torch.bfloat16:
        return (scale.view(torch.uint16).numpy().astype(np.uint32) << 16).view(np.float32)
    return scale.numpy().astype(np.float32)


def dequantized(one: Part, granularity: Granularity) -> np.ndarray:
    """code * scale, element by element: each looks up its own scale."""
    weight, scale = e4m3(one.weight), numbers(one.scale)
    i, j = np.indices(weight.shape)
    match granularity:
        case PerTensor():
            factor = np.full(weight.shape, scale[0])
        case PerChannel():
            factor = scale[i, 0]
        case PerBlock(rows=bn, cols=bk):
            factor = scale[i // bn, j // bk]
        case PerGroup(cols=g):
            factor = scale[i, j // g]
        case _:
            raise ValueError(granularity)
    return weight * factor
