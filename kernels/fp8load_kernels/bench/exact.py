"""Operands as numbers, float64, written from the rules of the formats and from nothing that backends use.

What backends are measured from shares no code with them: decoders and quantizers here are slow and plain. Numbers that
a format rounds to float32 (scales, and quotients by them) are rounded so here; a quotient or product of two float32
that float64 rounds first is the same after that.

Sources: OCP 8-bit Floating Point Specification 1.0; OCP Microscaling Formats 1.0, sections 5.3 and 6.3; the definitions
of schemes in `fp8load.scheme`. Shape letters: M tokens, N output rows, K input columns, G groups of columns.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from fp8load.dtypes import DType
from fp8load.runtime.backend import LinearWeights
from fp8load.scheme import (
    LinearScheme,
    PerBlock,
    PerGroup,
    PerTensor,
    QuantSpec,
    ScaleRounding,
    SharedExponent,
    Transform,
)

TINY = 2.0**-126
"""The smallest normal float32, and the smallest float scale."""


class Float(NamedTuple):
    """A small float: bits of its exponent and mantissa, what is taken off the exponent, its largest finite number."""

    exponent: int
    mantissa: int
    bias: int
    largest: float


FLOATS = {
    DType.F8_E4M3: Float(4, 3, 7, 448.0), DType.F8_E5M2: Float(5, 2, 15, 57344.0),
    DType.F8_E4M3FNUZ: Float(4, 3, 8, 240.0), DType.F8_E5M2FNUZ: Float(5, 2, 16, 57344.0),
    DType.F6_E3M2: Float(3, 2, 3, 28.0), DType.F6_E2M3: Float(2, 3, 1, 7.5), DType.F4: Float(2, 1, 1, 6.0),
}  # fmt: skip

EXPONENTS = (DType.F8_E8M0, DType.U8)
"""Scale dtypes whose bytes are exponents."""


def exact_weight(weights: LinearWeights, part: int, *, transformed: bool = True) -> torch.Tensor:
    """The weight of a part, float64 [rows, K]: (code * scale + B @ A) * s, the last two where `transformed`."""
    scheme, place = weights.scheme, weights.parts[part]
    values = exact_numbers(weights.weight[place.rows], scheme.weight.dtype)
    if weights.weight_scale is not None:
        scale = exact_numbers(weights.weight_scale[place.scale_rows], scheme.weight.scale_dtype)
        values *= spread(scale, scheme.weight, values.shape[0], values.shape[1])
    second = scheme.second_level
    if second is not None and weights.weight_global_scale is not None:
        number = weights.weight_global_scale[part].double()
        values = values / number if second.divides else values * number
    if transformed and Transform.LOW_RANK_RESIDUAL in scheme.transforms:
        a_rK, b_Nr = residual_of(weights, part)
        values = values + b_Nr @ a_rK
    if transformed and Transform.PRE_QUANT_SCALE in scheme.transforms and weights.pre_quant_scale is not None:
        values = values * weights.pre_quant_scale[part].double()
    return values


def residual_of(weights: LinearWeights, part: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A [r, K] and B [rows, r] of a part, float64."""
    if weights.low_rank_a is None or weights.low_rank_b is None:
        raise ValueError("the scheme has a low-rank residual, and there is none")
    rank = weights.scheme.residual_rank
    return weights.low_rank_a[part * rank : (part + 1) * rank].double(), weights.low_rank_b[
        weights.parts[part].rows
    ].double()


def exact_numbers(stored: torch.Tensor, dtype: DType | None) -> torch.Tensor:
    """Stored elements or scales as float64, by what their bits mean; packed ones unpacked along the last axis."""
    if dtype in EXPONENTS:
        byte = stored.view(torch.uint8)
        return torch.exp2(byte.double() - 127).masked_fill(byte == 255, float("nan"))
    if dtype not in FLOATS and dtype is not DType.I4:
        return stored.double()
    byte = stored.view(torch.uint8).to(torch.int32)
    if dtype in (DType.I4, DType.F4):
        byte = torch.stack([byte % 16, byte // 16], dim=-1).flatten(-2)
    elif dtype in (DType.F6_E3M2, DType.F6_E2M3):
        word = byte[..., 0::3] + byte[..., 1::3] * 256 + byte[..., 2::3] * 65536
        byte = torch.stack([word // 64**i % 64 for i in range(4)], dim=-1).flatten(-2)
    if dtype is DType.I4:
        return torch.where(byte > 7, byte - 16, byte).double()
    return float_values(dtype).to(byte.device)[byte]


def float_values(dtype: DType) -> torch.Tensor:
    """What each code of a small float means, float64 [2 ** bits]; NaN for what is no finite number."""
    form = FLOATS[dtype]
    code = torch.arange(2 ** (1 + form.exponent + form.mantissa))
    mantissa: torch.Tensor = (code % 2**form.mantissa).double()
    exponent: torch.Tensor = code // 2**form.mantissa % 2**form.exponent
    negative: torch.Tensor = code // 2 ** (form.mantissa + form.exponent) % 2 > 0
    fraction = mantissa / 2**form.mantissa + (exponent > 0).double()
    values = torch.where(negative, -fraction, fraction) * torch.exp2(exponent.clamp_min(1).double() - form.bias)
    if dtype in (DType.F8_E4M3FNUZ, DType.F8_E5M2FNUZ):
        return values.masked_fill(code == 128, float("nan"))
    return values.masked_fill(values.abs() > form.largest, float("nan"))


def spread(scale: torch.Tensor, spec: QuantSpec, num_rows: int, num_cols: int) -> torch.Tensor:
    """Scales of one part or of an input as a factor for each element: [1, 1], [rows, 1] or [rows, K]."""
    match spec.granularity:
        case PerTensor():
            return scale.reshape(1, 1)
        case PerBlock(rows=rows, cols=cols):
            pass
        case PerGroup(cols=cols):
            rows = 1
        case _:
            return scale.reshape(num_rows, 1)
    row = torch.arange(num_rows, device=scale.device) // rows
    col = torch.arange(num_cols, device=scale.device) // cols
    return scale[row[:, None], col[None, :]]


def exact_input(x_MK: torch.Tensor, weights: LinearWeights, rows: torch.Tensor | None = None) -> torch.Tensor:
    """The input as its scheme quantizes it, as numbers, float64; all of its rows, or some of them.

    x_MK is float32, and multiplied by what stands before quantization. Raises `ValueError` for a scheme whose
    quantization is not written here.
    """
    scheme, spec = weights.scheme, weights.scheme.input
    x = (x_MK if rows is None else x_MK[rows]).double()
    if spec is None or not x.numel():
        return x
    if spec.dtype not in FLOATS:
        raise ValueError(f"no exact quantization to {spec.dtype}")
    everywhere = x_MK.abs().amax().double().reshape(1, 1)
    cols = spec.granularity.cols if isinstance(spec.granularity, PerGroup | PerBlock) else max(x.shape[1], 1)
    if scheme.input_static and weights.input_scale is not None:
        scale = weights.input_scale.double().amax().clamp_min(TINY).reshape(1, 1)
    elif _has_shared_exponents(scheme, spec):
        scale = _shared_exponents(largest(x, cols), FLOATS[spec.dtype], spec.exponent)
    elif spec.dtype is DType.F4:
        scale = _of_two_levels(largest(x, cols), everywhere, weights)
    else:
        amax = everywhere if isinstance(spec.granularity, PerTensor) else largest(x, cols)
        amax = amax if spec.upper_bound is None else amax.clamp_max(spec.upper_bound)
        scale = float32(amax / FLOATS[spec.dtype].largest).clamp_min(TINY)
        if scheme.rounding is ScaleRounding.POWER_OF_TWO or spec.scale_dtype in EXPONENTS:
            scale = torch.exp2(_ceil_log2(scale))
    wide = scale.repeat_interleave(cols, dim=1)[:, : x.shape[1]] if scale.shape[1] > 1 else scale
    codes = nearest(torch.where(wide == 0, 0.0, float32(x / wide)), FLOATS[spec.dtype])
    return float32(codes * wide)


def nearest(x: torch.Tensor, form: Float) -> torch.Tensor:
    """The nearest number that a small float has, of two as near the one with an even mantissa; saturated."""
    size = x.abs().clamp_max(form.largest)
    exponent = _floor_log2(size).clamp_min(1 - form.bias)
    step = torch.exp2(exponent - form.mantissa)
    return torch.round(size / step) * step * torch.sign(x)


def largest(x_MK: torch.Tensor, cols: int) -> torch.Tensor:
    """The largest magnitude of each group of a row, [M, G]; the last group may be shorter."""
    groups = [x_MK[:, at : at + cols] for at in range(0, x_MK.shape[1], cols)]
    return torch.cat([group.abs().amax(dim=1, keepdim=True) for group in groups], dim=1)


def float32(x: torch.Tensor) -> torch.Tensor:
    """Rounded to float32, and held in float64."""
    return x.float().double()


def _has_shared_exponents(scheme: LinearScheme, spec: QuantSpec) -> bool:
    """Whether the input is of MX: groups of 32 with powers of two; of F4 and F6 nothing else is in groups of 32."""
    powers = spec.scale_dtype in EXPONENTS or scheme.rounding is ScaleRounding.POWER_OF_TWO
    if spec.dtype is DType.F4:
        return spec.scale_dtype in EXPONENTS or (spec.scale_dtype is None and spec.granularity == PerGroup(32))
    return spec.granularity == PerGroup(32) and (powers or spec.dtype in (DType.F6_E3M2, DType.F6_E2M3))


def _shared_exponents(amax: torch.Tensor, form: Float, rule: SharedExponent) -> torch.Tensor:
    """Powers of two for groups with these largest magnitudes, by a rule of `SharedExponent`."""
    exponent = _floor_log2(amax)
    fraction = amax / torch.exp2(exponent)  # 1 to 2, exactly
    top = _floor_log2(torch.full((), form.largest, dtype=torch.float64, device=amax.device))
    rounds_up = {
        SharedExponent.FLOOR: fraction >= 2,
        SharedExponent.ELEMENT: fraction >= 2 - 2.0 ** -(form.mantissa + 1),
        SharedExponent.ONE_BIT: fraction >= 2 - 2.0**-2,
        SharedExponent.CEIL: fraction > 1,
        SharedExponent.FIT: fraction > form.largest / torch.exp2(top),
    }[rule]
    return torch.exp2((exponent + rounds_up - top).clamp(-127, 127))


def _of_two_levels(amax: torch.Tensor, everywhere: torch.Tensor, weights: LinearWeights) -> torch.Tensor:
    """The scales of NVFP4: E4M3 for each group, times one for the whole tensor, which is stored or `everywhere` / (6 *
    448), the largest magnitude of all."""
    e4m3, stored, second = FLOATS[DType.F8_E4M3], weights.input_global_scale, weights.scheme.input_global
    if stored is None or second is None:
        level = float32(everywhere / (6 * e4m3.largest))
    else:
        level = float32((1 / stored.double() if second.divides else stored.double()).amax())
    level = level.clamp(TINY, torch.finfo(torch.float32).max)
    block = nearest(float32(float32(amax / 6) / level), e4m3)
    return float32(block * level)


def _floor_log2(x: torch.Tensor) -> torch.Tensor:
    """floor(log2(x)) of magnitudes, exactly; of zero less than that of any float32."""
    return torch.where(x > 0, torch.frexp(x)[1].double() - 1, -200.0)


def _ceil_log2(x: torch.Tensor) -> torch.Tensor:
    """ceil(log2(x)) of positive numbers, exactly."""
    fraction, exponent = torch.frexp(x)
    return exponent.double() - (fraction == 0.5).double()
