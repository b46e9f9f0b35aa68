"""Layers for laws about backends: schemes, shapes of real models, random tensors as files have them, and how they land.

Shape letters: N output rows, K input columns, M tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from fp8load.dtypes import DType
from fp8load.runtime.backend import Backend, Device, LinearWeights, Prepared, Yes, backends_for, device_of
from fp8load.runtime.layers import (
    ColumnParallelLinear,
    LayerOptions,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
    ScaledLinear,
)
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
    SecondLevel,
    Storage,
)
from fp8load_kernels.bench.accuracy import MOST_TOKENS
from fp8load_kernels.bench.exact import exact_input, exact_weight
from fp8load_kernels.bench.operands import random_weights
from kernels.grids import E2M1

PACKED = Storage(elements_per_byte=2)
DIVIDES, MULTIPLIES = SecondLevel(dtype=DType.F32, divides=True), SecondLevel(dtype=DType.F32)


def fp8(granularity: Granularity, scale: DType | None = DType.F32) -> QuantSpec:
    return QuantSpec(dtype=DType.F8_E4M3, granularity=granularity, scale_dtype=scale)


def group(dtype: DType, cols: int, scale: DType) -> QuantSpec:
    return QuantSpec(dtype=dtype, granularity=PerGroup(cols), scale_dtype=scale)


MXFP8, MXFP4 = group(DType.F8_E4M3, 32, DType.F8_E8M0), group(DType.F4, 32, DType.F8_E8M0)
NVFP4 = group(DType.F4, 16, DType.F8_E4M3)
BLOCK = LinearScheme(weight=fp8(PerBlock(128, 128)), input=fp8(PerGroup(128), None))
UE8M0 = replace(BLOCK, rounding=ScaleRounding.POWER_OF_TWO)

SCHEMES = {
    "tensor-static": LinearScheme(weight=fp8(PerTensor()), input=fp8(PerTensor()), input_static=True),
    "tensor-dynamic": LinearScheme(weight=fp8(PerTensor()), input=fp8(PerTensor(), None)),
    "channel-token": LinearScheme(weight=fp8(PerChannel()), input=fp8(PerToken(), None)),
    "channel-token-bf16-scale": LinearScheme(weight=fp8(PerChannel(), DType.BF16), input=fp8(PerToken(), None)),
    "channel-token-bounded": LinearScheme(
        weight=fp8(PerChannel()), input=replace(fp8(PerToken(), None), upper_bound=3.0)
    ),
    "channel-static": LinearScheme(weight=fp8(PerChannel()), input=fp8(PerTensor()), input_static=True),
    "block128": BLOCK,
    "block128-ue8m0": UE8M0,
    "block128-ue8m0-bytes": replace(UE8M0, weight=fp8(PerBlock(128, 128), DType.F8_E8M0)),
    "mxfp8": LinearScheme(weight=MXFP8, input=MXFP8),
    "mxfp4": LinearScheme(weight=MXFP4, input=MXFP4, storage=PACKED),
    "nvfp4-divides": LinearScheme(
        weight=NVFP4, input=NVFP4, second_level=DIVIDES, input_global=DIVIDES, storage=PACKED
    ),
    "nvfp4-multiplies": LinearScheme(
        weight=NVFP4, input=NVFP4, second_level=MULTIPLIES, input_global=MULTIPLIES, storage=PACKED
    ),
    "w8a16-fp8-tensor": LinearScheme(weight=fp8(PerTensor())),
    "w8a16-fp8-channel": LinearScheme(weight=fp8(PerChannel())),
    "w8a16-fp8-block128": LinearScheme(weight=fp8(PerBlock(128, 128))),
    "w8a16-int8-channel": LinearScheme(
        weight=QuantSpec(dtype=DType.I8, granularity=PerChannel(), scale_dtype=DType.BF16)
    ),
    "w4a16-int4-group128": LinearScheme(weight=group(DType.I4, 128, DType.BF16), storage=PACKED),
    "w4a16-nvfp4": LinearScheme(weight=NVFP4, second_level=DIVIDES, storage=PACKED),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """A layer of a model: the class that makes it, rows of its parts, columns.

    kind  qkv, merged, column, row; or fused: parts that are one tensor on disk
    """

    name: str
    kind: str
    rows: tuple[int, ...]
    cols: int

    def small(self) -> Shape:
        """With the same remainders by 128, so also by 16 and 32, and few blocks: the larger ones still the larger."""
        return replace(self, rows=tuple(map(_small, self.rows)), cols=_small(self.cols))


def _small(size: int) -> int:
    return size if size <= 128 else size % 128 + 128 * min(4, max(1, size.bit_length() - 10))


SHAPES = (
    Shape("llama3.1-8b.qkv", "qkv", (4096, 1024, 1024), 4096),
    Shape("llama3.1-70b.gate_up", "merged", (28672, 28672), 8192),
    Shape("llama3.1-405b.down", "row", (16384,), 53248),
    Shape("qwen3-0.6b.qkv", "qkv", (2048, 1024, 1024), 1024),
    Shape("qwen3-30b-a3b.expert_down", "row", (2048,), 768),
    Shape("deepseek-v3.qkv_a-2112", "merged", (1536, 576), 7168),
    Shape("deepseek-v3.kv_a-576", "column", (576,), 7168),
    Shape("phi-3-mini.qkv", "fused", (3072, 3072, 3072), 3072),
    Shape("qwen2.5-vl.gate_up-3420", "merged", (3420, 3420), 1280),
    Shape("qwen2.5-vl.down-3420", "row", (1280,), 3420),
    Shape("qwen2-moe.shared_expert_gate", "column", (1,), 2048),
)
"""From the models' config.json: hidden and intermediate sizes, heads of 128; ranks of DeepSeek-V3's latent attention
(1536, 512 + 64); the vision tower of Qwen2.5-VL (1280, 3420)."""

FULL = tuple(shape for shape in SHAPES if sum(shape.rows) * shape.cols < 10**8)
"""Those that are run in their full size on a GPU."""

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


@dataclass(frozen=True, slots=True)
class Case:
    """A backend, and a scheme that it is asked to run, on a device."""

    device: str
    backend: Backend
    kind: str

    @property
    def scheme(self) -> LinearScheme:
        return SCHEMES[self.kind]

    @property
    def here(self) -> Device:
        return device_of(torch.device(self.device))

    def supports(self, shape: Shape) -> bool:
        return isinstance(self.backend.supports(self.scheme, (sum(shape.rows), shape.cols), self.here), Yes)

    def __str__(self) -> str:
        return f"{self.device}-{self.backend.name}-{self.kind}"


def cases() -> list[Case]:
    """Every backend that is found here with every scheme, whether or not it takes it."""
    return [
        Case(device, backend, kind)
        for device in DEVICES
        for backend in backends_for(device_of(torch.device(device)))
        for kind in SCHEMES
    ]


def stored(scheme: LinearScheme, shape: Shape, device: str, seed: int) -> LinearWeights:
    """Random tensors of every part, each with scales of its own; of parts that are one on disk one scale."""
    parts = [(str(i), rows) for i, rows in enumerate(shape.rows)]
    weights = random_weights(scheme, parts, shape.cols, torch.Generator(device).manual_seed(seed))
    scale = weights.weight_scale
    assert scale is not None
    if scheme.weight.scale_dtype is DType.BF16:
        scale = scale.bfloat16()
    found = replace(weights, weight_scale=scale)
    if shape.kind == "fused":
        for role in Role:
            tensor = tensor_of(found, role)
            if tensor is not None and tensor.dim() == 1:
                tensor.fill_(tensor[0].item())
    return found


def tensor_of(weights: LinearWeights, role: Role) -> torch.Tensor | None:
    return {
        Role.WEIGHT: weights.weight, Role.WEIGHT_SCALE: weights.weight_scale, Role.INPUT_SCALE: weights.input_scale,
        Role.WEIGHT_GLOBAL_SCALE: weights.weight_global_scale, Role.INPUT_GLOBAL_SCALE: weights.input_global_scale,
    }.get(role)  # fmt: skip


def bias_of(weights: LinearWeights) -> torch.Tensor:
    """A bias [N] in BF16 that belongs to these weights: other weights, another bias."""
    return weights.dequantize()[:, :7].sum(1).mul(50).sub(1).bfloat16()


def piece(weights: LinearWeights, role: Role, i: int) -> torch.Tensor | None:
    """What the file of part `i` has for a role."""
    whole, part = tensor_of(weights, role), weights.parts[i]
    if role is Role.BIAS:
        return bias_of(weights)[part.rows]
    if whole is None:
        return None
    if role is Role.WEIGHT:
        return whole[part.rows]
    return whole[part.scale_rows] if role is Role.WEIGHT_SCALE else whole[i : i + 1]


def made(case: Case, shape: Shape, *, bias: bool = True, forced: bool = True) -> ScaledLinear:
    """An empty layer of one of the classes that engines use."""
    options: LayerOptions = {
        "scheme": case.scheme, "bias": DType.BF16 if bias else None, "name": shape.name, "device": case.device,
        "backend": case.backend.name if forced else None,
    }  # fmt: skip
    if shape.kind == "qkv":
        q, k, _ = shape.rows
        return QKVParallelLinear(shape.cols, 128, q // 128, k // 128, **options)
    if shape.kind == "column":
        return ColumnParallelLinear(shape.cols, shape.rows[0], **options)
    if shape.kind == "row":
        return RowParallelLinear(shape.cols, shape.rows[0], **options)
    return MergedColumnParallelLinear(shape.cols, shape.rows, **options)


def fill(
    layer: ScaledLinear, shape: Shape, weights: LinearWeights, parts: list[int] | None = None, *roles: Role
) -> None:
    """Load these parts (all) of these roles (all) through `weight_loader`; fused on disk in one call each."""
    for param in layer.parameters():
        role = param.param_layout.role
        if roles and role not in roles:
            continue
        if shape.kind == "fused" and parts is None:
            whole = bias_of(weights) if role is Role.BIAS else tensor_of(weights, role)
            assert whole is not None
            param.weight_loader(param, whole[0] if whole.dim() == 1 and role is not Role.BIAS else whole)
            continue
        for i in range(len(shape.rows)) if parts is None else parts:
            tensor = piece(weights, role, i)
            assert tensor is not None
            param.weight_loader(param, tensor, i)


def filled(case: Case, shape: Shape, weights: LinearWeights, *, bias: bool = True) -> ScaledLinear:
    """A layer that holds these weights, ready to run."""
    layer = made(case, shape, bias=bias)
    fill(layer, shape, weights)
    return layer.finalize()


def addresses(held: Prepared | LinearWeights, path: str = "prepared") -> Iterator[tuple[str, int]]:
    """Where every tensor lies that a backend computes with."""
    for field in dataclasses.fields(held):
        value = getattr(held, field.name)
        if isinstance(value, torch.Tensor):
            yield f"{path}.{field.name}", value.data_ptr()
        elif isinstance(value, Prepared | LinearWeights):
            yield from addresses(value, f"{path}.{field.name}")


@dataclass(frozen=True, slots=True)
class Expected:
    """What a layer has to compute, in float64, from its weight as a decoder of our own reads it."""

    weights: LinearWeights
    w_NK: torch.Tensor
    bias: torch.Tensor | None

    @staticmethod
    def of(weights: LinearWeights, *, bias: bool = True, large: bool = False) -> Expected:
        """`large`: decoded on the device, by `exact_weight`."""
        parts = range(len(weights.parts))
        return Expected(
            weights=weights,
            w_NK=torch.cat([exact_weight(weights, i) for i in parts])
            if large
            else decoded(weights).to(weights.weight.device),
            bias=bias_of(weights).double() if bias else None,
        )

    def errors(self, x_MK: torch.Tensor, y_MN: torch.Tensor) -> tuple[float, float]:
        """How far y is from the product of the input as the scheme quantizes it, and as it is: relative Frobenius."""
        rows = torch.linspace(0, len(x_MK) - 1, min(len(x_MK), MOST_TOKENS)).round().long().to(x_MK.device)
        found = []
        for values in (exact_input(x_MK.float(), self.weights, rows), x_MK[rows].double()):
            truth = values @ self.w_NK.T + (0 if self.bias is None else self.bias)
            found.append(float((y_MN[rows].double() - truth).norm() / truth.norm()))
        return found[0], found[1]


def decoded(weights: LinearWeights) -> torch.Tensor:
    """The weight as float64 [N, K], by a decoder that shares nothing with the ones under test."""
    scheme, second = weights.scheme, weights.scheme.second_level
    codes, (_, num_cols) = _numbers(weights.weight.cpu(), scheme.weight.dtype), weights.shape
    assert weights.weight_scale is not None
    scales = _numbers(weights.weight_scale.cpu(), scheme.weight.scale_dtype)
    for i, part in enumerate(weights.parts):
        scale = scales[part.scale_rows].reshape(-1, 1) if scales.ndim == 1 else scales[part.scale_rows]
        rows, cols = {PerTensor: (-1, -1), PerChannel: (1, -1)}.get(type(scheme.weight.granularity), (1, 0))
        if isinstance(scheme.weight.granularity, PerBlock):
            rows, cols = scheme.weight.granularity.rows, scheme.weight.granularity.cols
        elif isinstance(scheme.weight.granularity, PerGroup):
            cols = scheme.weight.granularity.cols
        height, width = part.rows.stop - part.rows.start, num_cols
        at_row = np.arange(height) // (height if rows < 0 else rows)
        at_col = np.arange(width) // (width if cols < 0 else cols)
        codes[part.rows] *= scale[at_row[:, None], at_col]
        if second is not None and weights.weight_global_scale is not None:
            number = float(weights.weight_global_scale[i])
            codes[part.rows] *= 1 / number if second.divides else number
    return torch.from_numpy(codes)


def _numbers(data: torch.Tensor, dtype: DType | None) -> np.ndarray:
    """Codes or scales as float64, two of a byte low first."""
    if dtype in (DType.F8_E8M0, DType.U8):
        return np.exp2(data.view(torch.uint8).numpy().astype(np.float64) - 127)
    if dtype not in (DType.F4, DType.I4):
        return data.double().numpy()
    nibbles = np.stack([data.numpy() & 15, data.numpy() >> 4], -1).reshape(len(data), -1).astype(np.int64)
    if dtype is DType.I4:
        return np.where(nibbles > 7, nibbles - 16, nibbles).astype(np.float64)
    return np.where(nibbles & 8, -1.0, 1.0) * E2M1[nibbles & 7]
