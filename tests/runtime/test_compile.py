"""`torch.compile` of models with quantized layers: one graph, results of eager calls, reloads seen, gradients of x."""

from __future__ import annotations

import copy
import gc
import io

import pytest
import torch

from fp8load.dtypes import DType
from fp8load.runtime.layers import ColumnParallelLinear, FusedExperts, MergedColumnParallelLinear, ScaledLinear
from fp8load.scheme import LinearScheme, PerBlock, PerChannel, PerGroup, PerToken, QuantSpec, Role

E4M3 = DType.F8_E4M3
ROW = LinearScheme(
    weight=QuantSpec(dtype=E4M3, granularity=PerChannel(), scale_dtype=DType.F32),
    input=QuantSpec(dtype=E4M3, granularity=PerToken()),
)
BLOCK = LinearScheme(
    weight=QuantSpec(dtype=E4M3, granularity=PerBlock(128, 128), scale_dtype=DType.F32),
    input=QuantSpec(dtype=E4M3, granularity=PerGroup(128)),
)
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[
        pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ]),
]  # fmt: skip


def refill(layer: ScaledLinear, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    for param in layer.parameters():
        for source in param.param_layout.sources:
            values = torch.rand(source.shape, generator=rng) / 50
            if param.param_layout.role in (Role.WEIGHT, Role.BIAS):
                values = torch.randn(source.shape, generator=rng)
            param.weight_loader(param, values.to(param.dtype), source.slot)


class Mlp(torch.nn.Module):
    """gate and up, down, with what a compiler fuses between them."""

    def __init__(self, scheme: LinearScheme, device: str, backend: str | None = None) -> None:
        super().__init__()
        options = {"scheme": scheme, "device": device, "backend": backend}
        self.up = MergedColumnParallelLinear(256, [128, 128], bias=DType.BF16, name="up", **options)
        self.down = ColumnParallelLinear(128, 256, name="down", **options)
        for seed, layer in enumerate((self.up, self.down)):
            refill(layer, seed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.up(x).chunk(2, dim=-1)
        return x + self.down((torch.nn.functional.silu(gate) * up).to(x.dtype))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("scheme", [ROW, BLOCK])
def test_one_graph_computes_what_eager_calls_do(scheme: LinearScheme, backend: str | None, device: str) -> None:
    torch._dynamo.reset()
    model = Mlp(scheme, device, backend)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for shape in ((3, 256), (2, 5, 256), (256,)):
        x = torch.randn(shape, device=device).bfloat16()
        expected = model(x)
        y = compiled(x)
        assert y.dtype == expected.dtype
        assert torch.equal(y, expected)


@pytest.mark.parametrize("device", DEVICES)
def test_the_default_compiler_takes_it(device: str) -> None:
    torch._dynamo.reset()
    model = Mlp(ROW, device)
    x = torch.randn(4, 256, device=device).bfloat16()

    torch.testing.assert_close(torch.compile(model, fullgraph=True)(x), model(x), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("device", DEVICES)
def test_a_compiled_graph_computes_with_reloaded_weights(device: str) -> None:
    torch._dynamo.reset()
    model, x = Mlp(ROW, device), torch.randn(3, 256, device=device).bfloat16()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    before = compiled(x)
    refill(model.up, 7)

    after = compiled(x)

    assert not torch.equal(before, after)
    assert torch.equal(after, model(x))


def saved_and_loaded(model: torch.nn.Module) -> torch.nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, saved_and_loaded])
def test_a_copy_is_a_layer_of_its_own(copied) -> None:
    torch._dynamo.reset()
    model, x = Mlp(ROW, "cpu"), torch.randn(3, 256).bfloat16()
    other = copied(model)
    refill(other.up, 7)

    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")

    assert torch.equal(compiled(x), other(x))
    assert not torch.equal(compiled(x), model(x))


def test_a_graph_keeps_no_layer_alive_and_says_so() -> None:
    layer = Mlp(ROW, "cpu").down
    number, x = layer._number, torch.randn(3, 128).bfloat16()
    assert torch.ops.fp8load.linear(x, number, 256, False).shape == (3, 256)
    del layer
    gc.collect()

    with pytest.raises(RuntimeError, match="is gone"):
        torch.ops.fp8load.linear(x, number, 256, False)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gradient_of_the_input_passes_through_the_weight(compiled: bool, device: str) -> None:
    torch._dynamo.reset()
    layer = ColumnParallelLinear(128, 64, scheme=ROW, device=device)
    refill(layer, 3)
    x = torch.randn(5, 128, device=device).bfloat16().requires_grad_()
    run = torch.compile(layer, fullgraph=True, backend="aot_eager") if compiled else layer
    weights = torch.randn(5, 64, device=device)

    (run(x).float() * weights).sum().backward()

    expected = (weights.bfloat16().float() @ layer.dequantize()).bfloat16()
    torch.testing.assert_close(x.grad, expected)


def test_the_operators_keep_torchs_rules_for_operators() -> None:
    layer = Mlp(ROW, "cpu").down.finalize()
    for x in (torch.randn(3, 128).bfloat16(), torch.randn(2, 3, 128)):
        torch.library.opcheck(torch.ops.fp8load.linear.default, (x, layer._number, 256, False))


@pytest.mark.parametrize("device", DEVICES)
def test_experts_are_one_operator(device: str) -> None:
    torch._dynamo.reset()
    made = experts(device)
    x, ids = torch.randn(6, 128, device=device).bfloat16(), torch.randint(0, 4, (6, 2), device=device)
    share = torch.rand(6, 2, device=device)

    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")

    assert torch.equal(compiled(x, share, ids), made(x, share, ids))


def experts(device: str) -> FusedExperts:
    made = FusedExperts(4, 128, 64, scheme=ROW, device=device)
    rng = torch.Generator().manual_seed(1)
    for param in made.parameters():
        for source in param.param_layout.sources:
            values = torch.randn(source.shape, generator=rng)
            values = values if param.param_layout.role is Role.WEIGHT else values.abs() / 50 + 1e-3
            expert, _, slot = source.slot.partition(".")
            param.weight_loader(param, values.to(param.dtype), slot, expert_id=int(expert))
    return made
