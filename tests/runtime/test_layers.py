"""What a filled layer computes, in every shape of input, and how it is finalized, reloaded and moved."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fp8load.boxes import whole
from fp8load.dtypes import DType, decode_table
from fp8load.errors import BackendError, PlanError, UnfilledSlotError, UsageError
from fp8load.plan.layout import ParamLayout, SlotSource
from fp8load.plan.plan import LayerSpec
from fp8load.runtime.layers import (
    ColumnParallelLinear,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
    ScaledLinear,
)
from fp8load.runtime.parameters import make_parameters
from fp8load.scheme import (
    LinearScheme,
    PerBlock,
    PerChannel,
    PerGroup,
    PerTensor,
    PerToken,
    QuantSpec,
    Role,
    SecondLevel,
    Storage,
)
from runtime.cases import BLOCK, CHANNEL, DYNAMIC, MXFP8, STATIC, WEIGHT_ONLY, dequantized, part, scheme

SCHEMES = {
    "static": STATIC, "dynamic": DYNAMIC, "channel": CHANNEL, "block": BLOCK, "mxfp8": MXFP8,
    "weight-only": WEIGHT_ONLY,
    "channel, input per tensor": scheme(CHANNEL.weight.granularity, given=PerTensor(), static=True),
    "tensor, input per token": scheme(given=PerToken()),
    "weight-only block": scheme(PerBlock(128, 128)),
}  # fmt: skip


def merged(layer: LinearScheme, num_cols: int, sizes: list[int], *, seed: int = 0, **options: object) -> ScaledLinear:
    """A filled layer of several parts."""
    made = MergedColumnParallelLinear(num_cols, sizes, scheme=layer, name="mlp.gate_up_proj", **options)
    refill(made, layer, num_cols, sizes, seed)
    return made


def refill(made: ScaledLinear, layer: LinearScheme, num_cols: int, sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for i, num_rows in enumerate(sizes):
        one = part(rng, layer, num_rows, num_cols)
        for param in made.parameters():
            param.weight_loader(param, one.of(param.param_layout.role), i)


def quantized_input(x: np.ndarray, layer: LinearScheme, static: float | None) -> np.ndarray:
    """The input as an FP8 kernel sees it, in float64, piece by piece."""
    if layer.input is None:
        return x.astype(np.float64)
    cols = {PerGroup: lambda: layer.input.granularity.cols}.get(type(layer.input.granularity), lambda: x.shape[1])()
    out = np.zeros(x.shape, dtype=np.float64)
    pieces = (
        [(slice(None), slice(None))]
        if layer.input.granularity == PerTensor()
        else [(slice(i, i + 1), slice(j, j + cols)) for i in range(x.shape[0]) for j in range(0, x.shape[1], cols)]
    )
    for rows, columns in pieces:
        piece = x[rows, columns].astype(np.float32)
        scale = np.float32(static) if static is not None else np.float32(np.abs(piece).max() / np.float32(448.0))
        if layer.rounding.value == "power-of-two":
            mx = layer.input is not None and layer.input.granularity == PerGroup(32)
            exponent = np.floor(np.log2(np.abs(piece).max())) - 8 if mx else np.ceil(np.log2(scale))
            scale = np.float32(2.0**exponent)
        codes = torch.from_numpy((piece / scale).clip(-448, 448)).to(torch.float8_e4m3fn)
        out[rows, columns] = codes.double().numpy() * float(scale)
    return out


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(("num_cols", "sizes"), [(256, [128, 256]), (100, [50, 30, 7]), (64, [48]), (33, [1, 1])])
def test_a_layer_computes_what_an_fp8_kernel_computes(name: str, num_cols: int, sizes: list[int]) -> None:
    layer = SCHEMES[name]
    made = merged(layer, num_cols, sizes, bias=DType.BF16).finalize()
    x = torch.randn(5, num_cols, generator=torch.Generator().manual_seed(1))
    static = None if made.input_scale is None else made.input_scale.max().item()
    given = quantized_input(x.numpy(), layer, static)
    expected = given @ made.dequantize().double().numpy().T + made.bias.double().numpy()
    for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 1e-2)):
        if dtype != torch.float32:
            given = quantized_input(x.to(dtype).float().numpy(), layer, static)
            expected = given @ made.dequantize().double().numpy().T + made.bias.double().numpy()
        y = made(x.to(dtype))
        assert y.dtype == dtype
        assert np.linalg.norm(y.double().numpy() - expected) <= limit * np.linalg.norm(expected)


@pytest.mark.parametrize("name", SCHEMES)
def test_the_reference_backend_is_float32_arithmetic_without_input_quantization(name: str) -> None:
    made = merged(SCHEMES[name], 96, [40, 24], bias=DType.BF16, backend="reference").finalize()
    x = torch.randn(3, 96, dtype=torch.bfloat16)
    expected = x.float() @ made.dequantize().T + made.bias
    assert made.backend.name == "reference"
    assert made(x).dtype == torch.float32
    torch.testing.assert_close(made(x), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("backend", [None, "reference", "emulated"])
@pytest.mark.parametrize("name", SCHEMES)
def test_inputs_of_one_to_four_axes_and_empty_ones(name: str, backend: str | None) -> None:
    made = merged(SCHEMES[name], 32, [16, 5], backend=backend).finalize()
    x = torch.randn(2, 3, 4, 32)
    rows = made(x.reshape(-1, 32))
    if made.scheme.input is None or made.scheme.input.granularity != PerTensor() or made.scheme.input_static:
        assert torch.allclose(made(x).reshape(-1, 21), rows, rtol=1e-4, atol=1e-4)
        assert torch.allclose(made(x[0, 0]), rows[:4], rtol=1e-4, atol=1e-4)
        assert torch.allclose(made(x[0, 0, 0]), rows[0], rtol=1e-4, atol=1e-4)
    for shape in ((32,), (4, 32), (3, 4, 32), (2, 3, 4, 32), (0, 32), (2, 0, 32), (0, 3, 2, 32)):
        assert tuple(made(torch.ones(shape)).shape) == (*shape[:-1], 21)


@pytest.mark.parametrize("backend", [None, "emulated"])
@pytest.mark.parametrize("name", SCHEMES)
def test_an_input_of_zeros_gives_the_bias(name: str, backend: str | None) -> None:
    made = merged(SCHEMES[name], 32, [16, 5], bias=DType.BF16, backend=backend).finalize()
    x = torch.zeros(3, 32)
    x[1] = 1.0
    assert torch.equal(made(torch.zeros(2, 32)), made.bias.float().expand(2, -1))
    assert torch.isfinite(made(x)).all()


def test_per_tensor_scales_that_differ_stay_exact() -> None:
    made = MergedColumnParallelLinear(32, [16, 16], scheme=DYNAMIC)
    weight = torch.ones(16, 32).to(torch.float8_e4m3fn)
    for i, scale in enumerate((1.0, 1e-4)):
        made.weight.weight_loader(made.weight, weight, i)
        made.weight_scale.weight_loader(made.weight_scale, torch.tensor(scale), i)
    y = made(torch.ones(2, 32))
    assert made.backend.name == "torch_scaled_mm"
    torch.testing.assert_close(y[:, :16], torch.full((2, 16), 32.0))
    torch.testing.assert_close(y[:, 16:], torch.full((2, 16), 32e-4))


def test_a_static_scale_clamps_and_is_the_largest_of_the_parts() -> None:
    made = MergedColumnParallelLinear(1, [1, 1], scheme=STATIC)
    for i in range(2):
        made.weight.weight_loader(made.weight, torch.ones(1, 1).to(torch.float8_e4m3fn), i)
        made.weight_scale.weight_loader(made.weight_scale, torch.tensor(1.0), i)
        made.input_scale.weight_loader(made.input_scale, torch.tensor([0.5, 0.25][i]), i)
    assert made(torch.tensor([[1000.0], [-1000.0], [2.0]])).tolist() == [[224.0] * 2, [-224.0] * 2, [2.0] * 2]


def test_partial_outputs_of_row_parallel_ranks_add_up() -> None:
    layer = scheme(PerBlock(8, 8))
    one = part(np.random.default_rng(0), layer, 20, 64)
    ranks = [RowParallelLinear(64, 20, scheme=layer, tp_rank=r, tp_size=4, bias=DType.BF16) for r in range(4)]
    x = torch.randn(3, 64)
    total = torch.zeros(3, 20)
    for r, rank in enumerate(ranks):
        for param in rank.parameters():
            param.weight_loader(param, one.of(param.param_layout.role))
        total += rank.finalize()(x[:, 16 * r : 16 * (r + 1)])
    expected = x.numpy() @ dequantized(one, layer.weight.granularity).T + one.bias.float().numpy()
    torch.testing.assert_close(total, torch.from_numpy(expected), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_second_finalize_changes_nothing(name: str) -> None:
    made = merged(SCHEMES[name], 64, [32, 16])
    x = torch.randn(4, 64)
    before = made.finalize()(x)
    prepared = made._prepared
    assert torch.equal(made.finalize()(x), before)
    assert made._prepared is prepared


@pytest.mark.parametrize("name", SCHEMES)
def test_a_reload_writes_in_place_and_is_seen_by_the_next_forward(name: str) -> None:
    layer, sizes = SCHEMES[name], [32, 16]
    made = merged(layer, 64, sizes, bias=DType.BF16).finalize()
    x = torch.randn(4, 64)
    before = made(x)
    addresses = [tensor.data_ptr() for tensor in made.parameters()]
    buffers = [b.data_ptr() for b in (made._prepared.weight_scale, made._prepared.input_scale) if b is not None]
    refill(made, layer, 64, sizes, seed=7)
    after = made(x)
    assert [tensor.data_ptr() for tensor in made.parameters()] == addresses
    assert [b.data_ptr() for b in (made._prepared.weight_scale, made._prepared.input_scale) if b is not None] == buffers
    assert not torch.equal(after, before)
    assert torch.equal(after, merged(layer, 64, sizes, seed=7, bias=DType.BF16).finalize()(x))


def test_a_bad_scale_that_is_loaded_later_is_refused_by_the_next_forward() -> None:
    made = merged(CHANNEL, 16, [8]).finalize()
    made.weight_scale.weight_loader(made.weight_scale, torch.full((8, 1), float("nan")))
    with pytest.raises(UnfilledSlotError, match=r"mlp\.gate_up_proj\.weight_scale\[0\]"):
        made(torch.ones(16))


def test_an_unfilled_layer_neither_computes_nor_dequantizes() -> None:
    made = ColumnParallelLinear(16, 8, scheme=CHANNEL, name="m")
    for use in (made.finalize, made.dequantize, lambda: made(torch.ones(16))):
        with pytest.raises(UnfilledSlotError, match=r"m\.weight\[whole\]"):
            use()


@pytest.mark.parametrize("x", [torch.ones(3, 15), torch.ones(()), torch.ones(16, dtype=torch.int64), torch.ones(16, 1)])
def test_an_input_that_does_not_fit_is_refused_with_the_layers_name(x: torch.Tensor) -> None:
    made = merged(CHANNEL, 16, [8]).finalize()
    with pytest.raises(UsageError, match=r"mlp\.gate_up_proj"):
        made(x)


def test_a_forced_backend_that_cannot_run_is_an_error() -> None:
    made = merged(BLOCK, 256, [128], backend="torch_scaled_mm")
    for use in (made.finalize, lambda: made.backend):
        with pytest.raises(BackendError, match="block 128 x 128") as caught:
            use()
        assert caught.value.code == "BKD801"
        assert caught.value.hint


def test_an_unknown_backend_is_a_usage_error_that_lists_the_names() -> None:
    made = merged(BLOCK, 256, [128], backend="cutlas")
    with pytest.raises(UsageError, match="triton_block, torch_mx, weight_only, emulated, reference"):
        made.finalize()


@pytest.mark.parametrize("backend", [None, ("torch_scaled_mm", "reference")])
def test_the_result_has_the_inputs_dtype_where_reference_is_only_what_is_left(backend) -> None:
    int8 = LinearScheme(
        weight=QuantSpec(dtype=DType.I8, granularity=PerChannel(), scale_dtype=DType.F32),
        input=QuantSpec(dtype=DType.I8, granularity=PerToken()),
    )
    made = MergedColumnParallelLinear(16, [8], scheme=int8, name="m", backend=backend)
    for param in made.parameters():
        param.weight_loader(param, torch.ones(param.shape, dtype=param.dtype), 0)
    x = torch.ones(3, 16, dtype=torch.bfloat16)

    assert made.backend.name == "reference"
    assert made(x).dtype == torch.compile(made, fullgraph=True, backend="aot_eager")(x).dtype == torch.bfloat16


def test_why_keeps_every_refusal() -> None:
    made = merged(BLOCK, 256, [128])
    assert made.backend.name == "emulated"
    assert [line.partition(":")[0] for line in made.why] == [
        "torch_scaled_mm", "deepgemm", "torch_block", "triton_block", "torch_mx", "weight_only", "emulated",
    ]  # fmt: skip
    assert "block 128 x 128" in made.why[0]
    assert "runs on CUDA, not on cpu" in made.why[3]
    assert merged(STATIC, 16, [16]).backend.name == "torch_scaled_mm"


@pytest.mark.parametrize("convert", [torch.nn.Module.half, torch.nn.Module.double, torch.nn.Module.bfloat16])
def test_a_layer_is_not_converted_to_another_dtype(convert) -> None:
    made = merged(BLOCK, 256, [128]).finalize()
    with pytest.raises(UsageError, match="keeps its dtype"):
        convert(made)
    assert made.weight.dtype == torch.float8_e4m3fn
    made.to("cpu")
    assert made.weight_scale.dtype == torch.float32


def test_absent_parameters_are_none() -> None:
    made = merged(BLOCK, 256, [128])
    assert made.bias is None
    assert made.input_scale is None
    assert sorted(name for name, _ in made.named_parameters()) == ["weight", "weight_scale"]


def test_a_planned_layer_is_made_around_given_parameters() -> None:
    rows = (SlotSource("o_proj", (8, 16), whole((8, 16)), whole((8, 16))),)
    scales = (SlotSource("o_proj", (8, 1), whole((8, 1)), whole((8, 1))),)
    layouts = [
        ParamLayout(Role.WEIGHT, DType.F8_E4M3, (8, 16), rows),
        ParamLayout(Role.WEIGHT_SCALE, DType.F32, (8, 1), scales),
    ]
    params = make_parameters(layouts, "a.o_proj", scheme=CHANNEL)
    spec = LayerSpec(name="a.o_proj", scheme=CHANNEL, parts=(("o_proj", 8),), num_cols=16)
    made = ScaledLinear.from_spec(spec, params)
    one = part(np.random.default_rng(0), CHANNEL, 8, 16)
    for param in made.parameters():
        param.slot_view(param.param_layout.sources[0]).copy_(one.of(param.param_layout.role))
        param.mark_written("o_proj")
    assert np.array_equal(made.finalize().dequantize().numpy(), dequantized(one, CHANNEL.weight.granularity))
    assert made.weight is params[Role.WEIGHT]


def test_a_split_that_cuts_a_block_lists_the_sizes_that_work() -> None:
    with pytest.raises(PlanError, match="works: 1, 2, 3, 6") as caught:
        MergedColumnParallelLinear(256, [768, 768], scheme=BLOCK, tp_rank=0, tp_size=4, name="mlp")
    assert "mlp" in str(caught.value)
    with pytest.raises(PlanError, match="works: 1, 2"):
        RowParallelLinear(256, 64, scheme=BLOCK, tp_size=3)
    with pytest.raises(PlanError, match="works: 1, 3, 6"):
        QKVParallelLinear(64, 128, 6, 3, scheme=CHANNEL, tp_size=4)


def test_a_planned_layer_refuses_a_forced_backend_before_it_is_filled() -> None:
    rows = (SlotSource("o_proj", (8, 16), whole((8, 16)), whole((8, 16))),)
    params = make_parameters([ParamLayout(Role.WEIGHT, DType.F8_E4M3, (8, 16), rows)], "a.o_proj", scheme=WEIGHT_ONLY)
    spec = LayerSpec(name="a.o_proj", scheme=WEIGHT_ONLY, parts=(("o_proj", 8),), num_cols=16)
    with pytest.raises(BackendError, match=r"a\.o_proj"):
        ScaledLinear.from_spec(spec, params, backend="torch_scaled_mm")
    with pytest.raises(UsageError, match=r"a\.o_proj"):
        ScaledLinear.from_spec(spec, params, backend="none such")


@pytest.mark.parametrize("divides", [True, False])
def test_two_levels_of_scales_stay_apart_for_each_part(divides: bool) -> None:
    layer = LinearScheme(
        weight=QuantSpec(dtype=DType.F4, granularity=PerGroup(16), scale_dtype=DType.F8_E4M3),
        second_level=SecondLevel(dtype=DType.F32, divides=divides), storage=Storage(elements_per_byte=2),
    )  # fmt: skip
    made = MergedColumnParallelLinear(64, [4, 6], scheme=layer, tp_rank=1, tp_size=2, name="m")
    rng, expected = np.random.default_rng(0), []
    for i, (num_rows, second) in enumerate(((4, 0.37), (6, 3.1))):
        elements = rng.integers(0, 16, (num_rows, 64))
        packed = torch.from_numpy((elements[:, ::2] | elements[:, 1::2] << 4).astype(np.uint8))
        scale = torch.rand(num_rows, 4).to(torch.float8_e4m3fn)
        for param, tensor in (
            (made.weight, packed),
            (made.weight_scale, scale),
            (made.weight_global_scale, torch.tensor(second)),
        ):
            param.weight_loader(param, tensor, i)
        number = np.float32(second)
        factor = scale.float().numpy() / number if divides else scale.float().numpy() * number
        whole_part = decode_table(DType.F4)[elements] * np.repeat(factor, 16, axis=1)
        expected.append(whole_part[num_rows // 2 :])
    w = np.concatenate(expected)
    assert np.array_equal(made.finalize().dequantize().numpy(), w)
    x = torch.randn(3, 64)
    assert made.shape == (5, 64)
    assert made.backend.name == "emulated"
    torch.testing.assert_close(made(x), x @ torch.from_numpy(w).T, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("backend", [None, "reference"])
def test_an_input_of_64_bits_is_computed_in_32(backend) -> None:
    made = merged(BLOCK, 256, [128], backend=backend)
    x = torch.randn(3, 256, dtype=torch.float64)

    y = made(x)

    assert y.dtype == (torch.float32 if backend else torch.float64)
    assert torch.equal(y.float(), made(x.float()))
