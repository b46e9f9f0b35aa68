"""Activation of rows sorted by expert, and their quantization in the same launch, in Triton.

What the product before gave is read once; what is rounded to its dtype in between stays in registers. Codes and scales
are those of `gpu.quantize` of the rounded rows.

Shape letters: P rows, I columns that come out, G = ceil(I / g) groups of g columns.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fp8load.dtypes import LARGEST_FINITE, DType
from fp8load.runtime.activation import KINDS, SWIGLU_ALPHA, Activation
from fp8load.runtime.routing import Routing
from fp8load_kernels.gpu.launch import constants, kernel
from fp8load_kernels.gpu.quantize import TILE, _clamped, _divided, _magnitude, _number, _scale
from fp8load_kernels.quantized import FP8_DTYPES, Quantized

_ALPHA = tl.constexpr(SWIGLU_ALPHA)
_GELU, _RELU2, _CLAMPED_SWIGLU = (tl.constexpr(KINDS.index(kind)) for kind in ("gelu", "relu2", "clamped-swiglu"))


def activate(y: torch.Tensor, activation: Activation, routing: Routing) -> torch.Tensor:
    """y [P, 2I], or [P, I] without a gate, -> [P, I] in y's dtype, computed in float32; rows of nobody are zeros."""
    num_cols = y.shape[1] // 2 if activation.gated else y.shape[1]
    out = torch.empty(y.shape[0], num_cols, dtype=y.dtype, device=y.device)
    if out.numel():
        cols = min(2048, triton.next_power_of_2(num_cols))
        _launch(y, activation, routing, out, None, (1, cols, cols), None, power_of_two=False)
    return out


def activate_and_quantize(
    y: torch.Tensor,
    activation: Activation,
    routing: Routing,
    dtype: DType,
    *,
    cols: int | None = None,
    power_of_two: bool = False,
    scale: torch.Tensor | None = None,
) -> Quantized:
    """Codes [P, I] and float32 [P, G], one scale for each `cols` neighbours (a power of two), or for a whole row.

    `scale`: where to write the scales, [P, G] with any strides. Codes and scales of rows of nobody are not written.
    """
    num_cols = y.shape[1] // 2 if activation.gated else y.shape[1]
    group = num_cols if cols is None else cols
    num_groups = -(-num_cols // max(group, 1))
    codes = torch.empty(y.shape[0], num_cols, dtype=FP8_DTYPES[dtype], device=y.device)
    if scale is None:
        scale = torch.empty(y.shape[0], num_groups, dtype=torch.float32, device=y.device)
    if codes.numel():
        width = triton.next_power_of_2(group)
        together = min(max(1, TILE // width), triton.next_power_of_2(num_groups))
        _launch(y, activation, routing, codes, scale, (together, width, group), dtype, power_of_two=power_of_two)
    return Quantized(codes=codes, dtype=dtype, scale=scale, cols=max(group, 1))


def _launch(y, activation, routing, out, scale, tile, dtype, *, power_of_two):
    together, width, group = tile
    num_cols, limited = out.shape[1], activation.gated and activation.limit is not None
    strides = (0, 0) if scale is None else scale.stride()
    _between(
        (out.shape[0], triton.cdiv(triton.cdiv(num_cols, group), together), 1),
        (y, routing.expert, out, y if scale is None else scale),
        (y.stride(0), *strides, num_cols, activation.limit or 0.0, 0.0 if dtype is None else LARGEST_FINITE[dtype]),
        constants(KIND=KINDS.index(activation.kind),
        LIMITED=limited, QUANTIZED=scale is not None, POWER_OF_TWO=power_of_two,
        TOGETHER=together, WIDTH=width, GROUP=group, num_warps=4 if together * width <= 4096 else 8),
    )  # fmt: skip


def quantize_by_expert(
    x: torch.Tensor, scale_E: torch.Tensor, routing: Routing, dtype: DType, *, by_token: bool
) -> Quantized:
    """Each row by the static scale of its expert: codes [P, K] and float32 [P, 1], from rows [P, K] or tokens [T, K].

    Codes and scales of rows of nobody are not written.
    """
    num_cols = x.shape[1]
    codes = torch.empty(routing.num_rows, num_cols, dtype=FP8_DTYPES[dtype], device=x.device)
    scale = torch.empty(routing.num_rows, 1, dtype=torch.float32, device=x.device)
    if codes.numel():
        block = min(4096, triton.next_power_of_2(num_cols))
        _static(
            (routing.num_rows, triton.cdiv(num_cols, block), 1),
            (x, codes, scale, scale_E, routing.expert, routing.token),
            (x.stride(0), num_cols, LARGEST_FINITE[dtype]),
            constants(BY_TOKEN=by_token, BLOCK=block, num_warps=4),
        )  # fmt: skip
    return Quantized(codes=codes, dtype=dtype, scale=scale, cols=max(num_cols, 1))


@triton.jit
def _activated(gate, up, limit, KIND: tl.constexpr, LIMITED: tl.constexpr):
    """In float32; a NaN stays one."""
    if LIMITED:
        gate = tl.where(gate > limit, limit, gate)
        up = _clamped(up, limit)
    if KIND == _RELU2:
        gate = tl.where(gate < 0, 0.0, gate)
        y = gate * gate
    elif KIND == _GELU:
        inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        y = gate * tl.sigmoid(2 * inner) * up  # (1 + tanh(z)) / 2 is sigmoid(2 z)
    elif KIND == _CLAMPED_SWIGLU:
        y = gate * tl.sigmoid(_ALPHA * gate) * (up + 1)
    else:
        y = gate * tl.sigmoid(gate) * up
    return y


@kernel
def _between(
    y_ptr, expert_ptr, out_ptr, scale_ptr, stride, scale_stride_p, scale_stride_g, num_cols, limit, largest,
    KIND: tl.constexpr, LIMITED: tl.constexpr, QUANTIZED: tl.constexpr, POWER_OF_TWO: tl.constexpr,
    TOGETHER: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    mine = tl.load(expert_ptr + row) >= 0
    groups = tl.program_id(1) * TOGETHER + tl.arange(0, TOGETHER)
    inner = tl.arange(0, WIDTH)
    cols = (groups * GROUP)[:, None] + inner[None, :]
    inside = (inner < GROUP)[None, :] & (cols < num_cols)
    gate = tl.load(y_ptr + row * stride + cols, mask=inside & mine, other=0.0).to(tl.float32)
    up = gate
    if KIND != _RELU2:
        up = tl.load(y_ptr + row * stride + num_cols + cols, mask=inside & mine, other=0.0).to(tl.float32)
    h = _activated(gate, up, limit, KIND, LIMITED).to(y_ptr.dtype.element_ty)
    to = out_ptr + row * num_cols + cols
    if QUANTIZED:
        amax = _number(tl.max(_magnitude(h), axis=1), h.dtype)
        scale = _scale(amax, largest, POWER_OF_TWO)
        factor = tl.div_rn(tl.zeros_like(scale) + 1.0, scale)
        wide = h.to(tl.float32)
        codes = _divided(wide, tl.zeros_like(wide) + scale[:, None], tl.zeros_like(wide) + factor[:, None])
        tl.store(to, codes.to(out_ptr.dtype.element_ty), mask=inside & mine)
        at = scale_ptr + row * scale_stride_p + groups * scale_stride_g
        tl.store(at, scale, mask=(groups * GROUP < num_cols) & mine)
    else:
        tl.store(to, h, mask=inside)


@kernel
def _static(
    x_ptr, codes_ptr, scale_ptr, scales_ptr, expert_ptr, token_ptr, stride, num_cols, largest,
    BY_TOKEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    expert = tl.load(expert_ptr + row)
    if expert < 0:
        return
    source = tl.load(token_ptr + row).to(tl.int64) if BY_TOKEN else row
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    scale = tl.load(scales_ptr + expert)
    scale = tl.where(scale < 1.1754943508222875e-38, 1.1754943508222875e-38, scale)
    x = tl.load(x_ptr + source * stride + cols, mask=cols < num_cols, other=0.0).to(tl.float32)
    factor = tl.div_rn(1.0, scale)
    near = tl.abs(x) <= scale * (2 * largest)  # as in gpu.quantize: far beyond the largest code there is no remainder
    y = _divided(x, tl.zeros_like(x) + scale, tl.zeros_like(x) + factor)
    y = _clamped(tl.where(near, y, x * factor), largest)
    tl.store(codes_ptr + row * num_cols + cols, y.to(codes_ptr.dtype.element_ty), mask=cols < num_cols)
    if tl.program_id(1) == 0:
        tl.store(scale_ptr + row, scale)
