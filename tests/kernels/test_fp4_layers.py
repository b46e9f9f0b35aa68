"""NVFP4, MXFP4, MXFP6, MXFP8 and W4A8 layers from end to end: loaded, split over ranks, sealed, dequantized, run."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from fp8load.dtypes import DType
from fp8load.errors import LoadError, PlanError, UnfilledSlotError
from fp8load.plan.layout import PartSpan, linear_layout
from fp8load.plan.shard import Span
from fp8load.runtime.backend import LinearWeights, Part
from fp8load.runtime.layers import ColumnParallelLinear, MergedColumnParallelLinear, RowParallelLinear
from fp8load.runtime.linear import ScaledLinear
from fp8load.runtime.parameters import PackedParameter, make_parameters
from fp8load.scheme import LinearScheme, PerGroup, PerTensor, PerToken, QuantSpec, Role, SecondLevel, Storage
from fp8load_kernels.quantize import quantize_input
from kernels.grids import E2M1, E2M3, E3M2, E4M3, mx, nvfp4

MXFP4_SPEC = QuantSpec(dtype=DType.F4, granularity=PerGroup(32), scale_dtype=DType.F8_E8M0)
MXFP8_SPEC = QuantSpec(dtype=DType.F8_E4M3, granularity=PerGroup(32), scale_dtype=DType.F8_E8M0)
E3M2_SPEC, E2M3_SPEC = (replace(MXFP8_SPEC, dtype=dtype) for dtype in (DType.F6_E3M2, DType.F6_E2M3))
NVFP4_SPEC = QuantSpec(dtype=DType.F4, granularity=PerGroup(16), scale_dtype=DType.F8_E4M3)
FP8_TOKEN = QuantSpec(dtype=DType.F8_E4M3, granularity=PerToken())
FP8_STATIC = QuantSpec(dtype=DType.F8_E4M3, granularity=PerTensor(), scale_dtype=DType.F32)
PACKED = Storage(elements_per_byte=2)
DIVIDES, MULTIPLIES = SecondLevel(dtype=DType.F32, divides=True), SecondLevel(dtype=DType.F32)

COMPRESSED_TENSORS = LinearScheme(
    weight=NVFP4_SPEC, input=NVFP4_SPEC, second_level=DIVIDES, input_global=DIVIDES, storage=PACKED
)
MODELOPT = replace(COMPRESSED_TENSORS, second_level=MULTIPLIES, input_global=MULTIPLIES)
SCHEMES = {
    "compressed-tensors NVFP4": COMPRESSED_TENSORS,
    "ModelOpt NVFP4": MODELOPT,
    "NVFP4, input scale computed": replace(MODELOPT, input_global=None),
    "NVFP4A16": replace(COMPRESSED_TENSORS, input=None, input_global=None),
    "NVFP4 with FP8 inputs": replace(MODELOPT, input=FP8_STATIC, input_static=True, input_global=None),
    "MXFP4": LinearScheme(weight=MXFP4_SPEC, input=MXFP4_SPEC, storage=PACKED),
    "MXFP4, exponents in U8": LinearScheme(
        weight=replace(MXFP4_SPEC, scale_dtype=DType.U8), input=replace(MXFP4_SPEC, scale_dtype=None), storage=PACKED
    ),
    "MXFP4 with MXFP8 inputs": LinearScheme(weight=MXFP4_SPEC, input=MXFP8_SPEC, storage=PACKED),
    "MXFP4 with FP8 tokens": LinearScheme(weight=MXFP4_SPEC, input=FP8_TOKEN, storage=PACKED),
    "MXFP8": LinearScheme(weight=MXFP8_SPEC, input=MXFP8_SPEC),
    "MXFP6, E3M2": LinearScheme(weight=E3M2_SPEC, input=E3M2_SPEC),
    "MXFP6, E2M3 with E3M2 inputs": LinearScheme(weight=E2M3_SPEC, input=E3M2_SPEC),
    "MXFP6, E2M3, weight-only": LinearScheme(weight=E2M3_SPEC),
}
GRIDS = {DType.F4: E2M1, DType.F6_E2M3: E2M3, DType.F6_E3M2: E3M2, DType.F8_E4M3: E4M3}
EVERY_SCHEME = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())


@dataclass
class Stored:
    """One module on disk: its tensors, and its weight as float32 by a decoder of our own."""

    tensors: dict[Role, torch.Tensor]
    weight: np.ndarray


def stored(scheme: LinearScheme, num_rows: int, num_cols: int, seed: int) -> Stored:
    rng = np.random.default_rng(seed)
    group = scheme.weight.granularity.cols
    if scheme.weight.dtype is DType.F4:
        data = rng.integers(0, 256, (num_rows, num_cols // 2), dtype=np.uint8)
        codes = np.stack([data & 15, data >> 4], -1).reshape(num_rows, num_cols)
        values, weight = np.where(codes & 8, -1, 1) * E2M1[codes & 7], torch.from_numpy(data)
    elif scheme.weight.dtype.bits == 6:
        codes = rng.integers(0, 64, (num_rows, num_cols))
        stream = (codes[..., None] >> np.arange(6) & 1).reshape(num_rows, -1).astype(np.uint8)
        values, weight = (
            np.where(codes & 32, -1, 1) * GRIDS[scheme.weight.dtype][codes & 31],
            torch.from_numpy(np.packbits(stream, axis=1, bitorder="little")),
        )
    else:
        data = rng.integers(0, 126, (num_rows, num_cols), dtype=np.uint8)
        values, weight = E4M3[data], torch.from_numpy(data).view(torch.float8_e4m3fn)
    grid = (num_rows, -(-num_cols // group))
    tensors = {Role.WEIGHT: weight}
    if scheme.weight.scale_dtype is DType.F8_E4M3:
        block = rng.integers(30, 100, grid, dtype=np.uint8)
        tensors[Role.WEIGHT_SCALE] = torch.from_numpy(block).view(torch.float8_e4m3fn)
        number = np.float32(rng.uniform(0.01, 3))
        tensors[Role.WEIGHT_GLOBAL_SCALE] = torch.tensor([number])
        scale = E4M3[block].astype(np.float32)
        scale = scale / number if scheme.second_level.divides else scale * number
    else:
        block = rng.integers(110, 130, grid, dtype=np.uint8)
        tensors[Role.WEIGHT_SCALE] = torch.from_numpy(block)
        scale = np.exp2(block.astype(np.float32) - 127)
    for role in (Role.INPUT_SCALE, Role.INPUT_GLOBAL_SCALE):
        tensors[role] = torch.tensor([rng.uniform(0.001, 300)], dtype=torch.float32)
    return Stored(tensors, values.astype(np.float32) * np.repeat(scale, group, 1)[:, :num_cols])


def fill(layer: ScaledLinear, parts: list[Stored]) -> ScaledLinear:
    for role in Role:
        param = dict(layer.named_parameters()).get(role)
        if param is not None:
            for i, part in enumerate(parts):
                param.weight_loader(param, part.tensors[role], i)
    return layer.finalize()


def quantized(x: np.ndarray, scheme: LinearScheme, parts: list[Stored]) -> np.ndarray:
    """The input as the scheme quantizes it, by numpy."""
    spec = scheme.input
    if spec is None:
        return x
    if spec in (FP8_TOKEN, FP8_STATIC):
        stored_scale = max(part.tensors[Role.INPUT_SCALE].numpy()[0] for part in parts)
        scale = stored_scale if spec == FP8_STATIC else np.abs(x).max(1, keepdims=True) / np.float32(448)
        return torch.from_numpy(x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float().numpy() * scale
    if spec.scale_dtype is DType.F8_E4M3:
        if scheme.input_global is None:
            return nvfp4(x, np.abs(x).max() / np.float32(2688))
        numbers = [part.tensors[Role.INPUT_GLOBAL_SCALE].numpy()[0] for part in parts]
        return nvfp4(x, max(np.float32(1) / n if scheme.input_global.divides else n for n in numbers))
    return mx(x, GRIDS[spec.dtype])


def expect(layer: ScaledLinear, weight: np.ndarray, parts: list[Stored], x: torch.Tensor) -> None:
    """Codes and scales to the bit, and the product as near as float32 sums are."""
    assert np.array_equal(layer.dequantize().numpy().view(np.uint32), weight.view(np.uint32))
    assert layer.backend.name == "emulated"
    given = quantized(x.numpy(), layer.scheme, parts).astype(np.float64)
    y, bound = given @ weight.T.astype(np.float64), np.abs(given) @ np.abs(weight.T).astype(np.float64)
    assert (np.abs(layer(x).numpy() - y) <= bound * 1e-5).all()


def test_a_layer_of_a_layout_holds_packed_bytes() -> None:
    parts = (PartSpan("a", 6, Span(0, 6)), PartSpan("b", 4, Span(0, 4)))
    layouts = linear_layout(parts, 64, Span(0, 64), scheme=COMPRESSED_TENSORS, dtype=DType.F4)
    params = make_parameters(layouts, "m", scheme=COMPRESSED_TENSORS)
    assert isinstance(params[Role.WEIGHT], PackedParameter)
    assert params[Role.WEIGHT].dtype == torch.uint8
    assert {role: tuple(param.shape) for role, param in params.items()} == {
        Role.WEIGHT: (10, 32), Role.WEIGHT_SCALE: (10, 4), Role.WEIGHT_GLOBAL_SCALE: (2,), Role.INPUT_GLOBAL_SCALE: (2,)
    }  # fmt: skip
    disk = [stored(COMPRESSED_TENSORS, 6, 64, 0), stored(COMPRESSED_TENSORS, 4, 64, 1)]
    layer = fill(ScaledLinear(params, scheme=COMPRESSED_TENSORS, name="m"), disk)
    assert layer.shape == (10, 64)
    expect(layer, np.concatenate([part.weight for part in disk]), disk, torch.randn(3, 64))


@EVERY_SCHEME
@pytest.mark.parametrize("num_cols", [128, 72])
def test_parts_keep_their_scales_and_share_one_input(scheme: LinearScheme, num_cols: int) -> None:
    disk = [stored(scheme, 6, num_cols, 0), stored(scheme, 10, num_cols, 1)]
    layer = fill(MergedColumnParallelLinear(num_cols, [6, 10], scheme=scheme), disk)
    expect(layer, np.concatenate([part.weight for part in disk]), disk, torch.randn(5, num_cols))


@EVERY_SCHEME
def test_column_ranks_hold_the_rows_of_the_whole(scheme: LinearScheme) -> None:
    disk = [stored(scheme, 8, 128, 2), stored(scheme, 4, 128, 3)]
    for rank in range(2):
        layer = fill(MergedColumnParallelLinear(128, [8, 4], scheme=scheme, tp_rank=rank, tp_size=2), disk)
        rows = [part.weight[rank * len(part.weight) // 2 :][: len(part.weight) // 2] for part in disk]
        expect(layer, np.concatenate(rows), disk, torch.randn(3, 128))


@EVERY_SCHEME
def test_row_ranks_hold_the_columns_of_the_whole(scheme: LinearScheme) -> None:
    one = stored(scheme, 6, 128, 4)
    for rank in range(4):
        layer = fill(RowParallelLinear(128, 6, scheme=scheme, tp_rank=rank, tp_size=4), [one])
        expect(layer, np.ascontiguousarray(one.weight[:, rank * 32 :][:, :32]), [one], torch.randn(3, 32))


def test_packed_weights_without_scales_are_their_codes_values() -> None:
    scheme = LinearScheme(weight=QuantSpec(dtype=DType.F4, granularity=PerTensor()), storage=PACKED)
    parts = (Part("whole", slice(0, 1), slice(0, 1)),)
    weights = LinearWeights(scheme=scheme, shape=(1, 4), parts=parts, weight=torch.tensor([[0x21, 0xF7]]).byte())
    assert weights.dequantize().tolist() == [[0.5, 1.0, 6.0, -6.0]]


def test_a_row_split_inside_a_group_is_refused() -> None:
    with pytest.raises(PlanError, match="F8L504"):
        RowParallelLinear(64, 6, scheme=SCHEMES["MXFP4"], tp_size=4)


@pytest.mark.parametrize("scheme", [COMPRESSED_TENSORS, MODELOPT])
def test_a_global_scale_that_is_missing_is_named(scheme: LinearScheme) -> None:
    for role in (Role.WEIGHT_GLOBAL_SCALE, Role.INPUT_GLOBAL_SCALE):
        layer = ColumnParallelLinear(64, 6, scheme=scheme, name="m")
        tensors = stored(scheme, 6, 64, 5).tensors
        for param in layer.parameters():
            if param.param_layout.role is not role:
                param.weight_loader(param, tensors[param.param_layout.role])
        with pytest.raises(UnfilledSlotError, match=role):
            layer.finalize()


def test_the_input_scale_is_written_again_in_place() -> None:
    one = stored(MODELOPT, 6, 64, 6)
    layer = fill(ColumnParallelLinear(64, 6, scheme=MODELOPT), [one])
    prepared = layer._prepared.input_global_scale
    one.tensors[Role.INPUT_GLOBAL_SCALE] = torch.tensor([0.25])
    layer.input_global_scale.load(one.tensors[Role.INPUT_GLOBAL_SCALE])
    expect(layer, one.weight, [one], torch.randn(3, 64))
    assert layer._prepared.input_global_scale.data_ptr() == prepared.data_ptr()


def test_names_for_the_same_bytes_are_taken_and_numbers_are_not() -> None:
    scheme = SCHEMES["MXFP4"]
    one = stored(scheme, 6, 64, 7)
    layer = ColumnParallelLinear(64, 6, scheme=scheme)
    layer.weight.load(one.tensors[Role.WEIGHT].view(torch.int8))
    assert one.tensors[Role.WEIGHT_SCALE].dtype == torch.uint8
    layer.weight_scale.load(one.tensors[Role.WEIGHT_SCALE])
    expect(layer.finalize(), one.weight, [one], torch.randn(2, 64))
    with pytest.raises(LoadError, match="FILL702"):
        layer.weight_scale.load(torch.ones(6, 2))


def test_a_state_dict_with_exponents_in_u8_loads_their_bytes() -> None:
    scheme = SCHEMES["MXFP4"]
    one = stored(scheme, 6, 64, 8)
    layer = ColumnParallelLinear(64, 6, scheme=scheme)
    layer.load_state_dict({"weight": one.tensors[Role.WEIGHT], "weight_scale": one.tensors[Role.WEIGHT_SCALE]})
    expect(layer.finalize(), one.weight, [one], torch.randn(2, 64))


def test_inputs_keep_their_dtype_and_axes_and_may_be_empty() -> None:
    layer = fill(ColumnParallelLinear(64, 6, scheme=MODELOPT), [stored(MODELOPT, 6, 64, 9)])
    for shape in ((64,), (2, 3, 64), (0, 64)):
        y = layer(torch.randn(shape).bfloat16())
        assert y.dtype == torch.bfloat16
        assert tuple(y.shape) == (*shape[:-1], 6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@EVERY_SCHEME
def test_cuda_quantizes_and_decodes_to_the_same_bits_as_the_cpu(scheme: LinearScheme) -> None:
    one = stored(scheme, 48, 320, 10)
    here = fill(ColumnParallelLinear(320, 48, scheme=scheme), [one])
    there = fill(ColumnParallelLinear(320, 48, scheme=scheme, device="cuda", backend="emulated"), [one])
    x = torch.randn(40, 320) * torch.logspace(-12, 12, 40, base=10).reshape(-1, 1)
    assert torch.equal(there.dequantize().cpu(), here.dequantize())
    if scheme.input is not None:
        scales = here._prepared.input_scale, here._prepared.input_global_scale
        expected = quantize_input(x, scheme, *scales)
        got = quantize_input(x.cuda(), scheme, *(scale if scale is None else scale.cuda() for scale in scales))
        assert torch.equal(got.scale.cpu(), expected.scale)
        assert torch.equal(got.codes.view(torch.uint8).cpu(), expected.codes.view(torch.uint8))
    y = here(x)
    assert ((there(x.cuda()).cpu() - y).norm(dim=1) <= 1e-4 * y.norm(dim=1)).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@EVERY_SCHEME
def test_a_captured_graph_runs(scheme: LinearScheme) -> None:
    layer = fill(ColumnParallelLinear(320, 48, scheme=scheme, device="cuda"), [stored(scheme, 48, 320, 11)])
    x = torch.randn(4, 320, device="cuda", dtype=torch.bfloat16)
    expected = layer(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = layer(x)
    graph.replay()
    assert torch.equal(y, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("num_tokens", [1, 5, 70])
@EVERY_SCHEME
def test_cuda_runs_it_without_emulation(scheme: LinearScheme, num_tokens: int) -> None:
    one = stored(scheme, 48, 320, 12)
    layer = fill(ColumnParallelLinear(320, 48, scheme=scheme, device="cuda"), [one])
    x = torch.randn(num_tokens, 320, device="cuda", dtype=torch.bfloat16)
    expected = x.double() @ layer.dequantize().double().T

    if scheme.weight.dtype in (DType.F6_E2M3, DType.F6_E3M2):
        assert "decodes weights of" in layer.why[-2]
        return
    assert layer.backend.name == "weight_only"
    assert (layer(x).double() - expected).norm() <= 5e-3 * expected.norm()
