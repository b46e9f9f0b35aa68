"""Layers of which the weight alone is quantized, in every way that weight-only kernels unpack; random codes, scales."""

from __future__ import annotations

import torch

from fp8load.dtypes import DType
from fp8load.runtime.backend import LinearWeights, Part
from fp8load.scheme import (
    Granularity,
    LinearScheme,
    PerBlock,
    PerChannel,
    PerGroup,
    PerTensor,
    QuantSpec,
    SecondLevel,
    Storage,
    scale_shape,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

SCHEMES: dict[str, tuple[DType, Granularity, DType, SecondLevel | None]] = {
    "fp8-tensor": (DType.F8_E4M3, PerTensor(), DType.F32, None),
    "fp8-channel": (DType.F8_E4M3, PerChannel(), DType.F32, None),
    "fp8-block": (DType.F8_E4M3, PerBlock(128, 128), DType.F32, None),
    "fp8-odd-block": (DType.F8_E4M3, PerBlock(24, 64), DType.F32, None),
    "fp8-wide-block": (DType.F8_E4M3, PerBlock(32, 256), DType.F32, None),
    "int4-wide-group": (DType.I4, PerGroup(512), DType.F32, None),
    "fp8-block-ue8m0": (DType.F8_E4M3, PerBlock(128, 128), DType.F8_E8M0, None),
    "e5m2-channel": (DType.F8_E5M2, PerChannel(), DType.F32, None),
    "mxfp8": (DType.F8_E4M3, PerGroup(32), DType.U8, None),
    "int8-channel": (DType.I8, PerChannel(), DType.F32, None),
    "int4-channel-two-levels": (DType.I4, PerChannel(), DType.F32, SecondLevel(dtype=DType.F32)),
    "fp8-tensor-two-levels": (DType.F8_E4M3, PerTensor(), DType.F32, SecondLevel(dtype=DType.F32, divides=True)),
    "int8-group": (DType.I8, PerGroup(64), DType.F32, None),
    "int4-group": (DType.I4, PerGroup(128), DType.F32, None),
    "int4-group-32": (DType.I4, PerGroup(32), DType.F32, None),
    "mxfp4": (DType.F4, PerGroup(32), DType.U8, None),
    "nvfp4": (DType.F4, PerGroup(16), DType.F8_E4M3, SecondLevel(dtype=DType.F32)),
    "nvfp4-divisor": (DType.F4, PerGroup(16), DType.F8_E4M3, SecondLevel(dtype=DType.F32, divides=True)),
}


def scales_of(spec: QuantSpec, shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
    if spec.scale_dtype in (DType.U8, DType.F8_E8M0):
        exponents = torch.randint(118, 126, shape, generator=rng, dtype=torch.uint8)
        return exponents if spec.scale_dtype is DType.U8 else exponents.view(torch.float8_e8m0fnu)
    scale = (torch.rand(shape, generator=rng) + 0.1) / 100
    return (scale * 100).to(torch.float8_e4m3fn) if spec.scale_dtype is DType.F8_E4M3 else scale


def made(name: str, rows: tuple[int, ...], num_cols: int, seed: int = 0) -> LinearWeights:
    """A fused layer with parts of these rows, random codes of every kind but NaN."""
    dtype, granularity, scale_dtype, second = SCHEMES[name]
    spec, rng = QuantSpec(dtype=dtype, granularity=granularity, scale_dtype=scale_dtype), torch.Generator()
    rng.manual_seed(seed + num_cols)
    packed = dtype.bits == 4
    codes = torch.randint(0, 256, (sum(rows), num_cols // 2 if packed else num_cols), generator=rng, dtype=torch.uint8)
    if dtype is DType.F8_E4M3:
        codes[(codes & 127) == 127] = 0x55
    if dtype is DType.F8_E5M2:
        codes[(codes & 127) > 0x58] = 0x31  # NaN and infinity, and what makes F16 products of infinite size
    torch_dtype = {DType.F8_E4M3: torch.float8_e4m3fn, DType.F8_E5M2: torch.float8_e5m2, DType.I8: torch.int8}
    scales = [scales_of(spec, scale_shape(granularity, (each, num_cols)), rng) for each in rows]
    parts, at, grid = [], 0, 0
    for number, (each, scale) in enumerate(zip(rows, scales, strict=True)):
        parts.append(Part(str(number), slice(at, at + each), slice(grid, grid + len(scale))))
        at, grid = at + each, grid + len(scale)
    joined = torch.cat([scale.view(torch.uint8) if scale.element_size() == 1 else scale for scale in scales])
    return LinearWeights(
        scheme=LinearScheme(
            weight=spec, second_level=second, storage=Storage(elements_per_byte=2 if packed else 1)
        ),
        shape=(sum(rows), num_cols), parts=tuple(parts),
        weight=codes.view(torch_dtype.get(dtype, torch.uint8)).to(DEVICE),
        weight_scale=joined.view(scales[0].dtype).to(DEVICE),
        weight_global_scale=None if second is None else torch.tensor([0.5, 3.0, 0.25])[: len(rows)].to(DEVICE),
    )  # fmt: skip


def tokens(num_tokens: int, num_cols: int, dtype: torch.dtype) -> torch.Tensor:
    x = torch.randn(num_tokens, num_cols, generator=torch.Generator().manual_seed(num_tokens))
    x[:, ::17] *= 20
    return x.to(dtype).to(DEVICE)


def scheme(name: str, **other: object) -> LinearScheme:
    dtype, granularity, scale_dtype, second = SCHEMES[name]
    spec = QuantSpec(dtype=dtype, granularity=granularity, scale_dtype=scale_dtype)
    return LinearScheme(weight=spec, second_level=second, **other)  # type: ignore[arg-type]
