"""On a CUDA device: the same numbers as on the CPU, and captured graphs that survive a reload."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from fp8load.dtypes import DType
from fp8load.runtime.layers import MergedColumnParallelLinear, ScaledLinear
from fp8load.scheme import LinearScheme, PerChannel, PerTensor, Role, ScaleRounding
from runtime.cases import BLOCK, CHANNEL, DYNAMIC, MXFP8, STATIC, WEIGHT_ONLY, scheme

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


SCHEMES = {
    "static": STATIC,
    "dynamic": DYNAMIC,
    "channel": CHANNEL,
    "channel, static input": scheme(PerChannel(), given=PerTensor(), static=True),
    "block": BLOCK,
    "exponents": replace(MXFP8, rounding=ScaleRounding.ANY),
    "weight-only": WEIGHT_ONLY,
}


def filled(
    layer: LinearScheme, num_cols: int, sizes: list[int], device: str, seed: int = 0, backend: str | None = None
) -> ScaledLinear:
    made = MergedColumnParallelLinear(
        num_cols, sizes, scheme=layer, bias=DType.BF16, device=device, name="m", backend=backend
    )
    refill(made, seed)
    return made.finalize()


def refill(made: ScaledLinear, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    for param in made.parameters():
        for source in param.param_layout.sources:
            values = torch.rand(source.shape, generator=rng) / 50
            if param.param_layout.role in (Role.WEIGHT, Role.BIAS):
                values = torch.randn(source.shape, generator=rng)
            param.weight_loader(param, values.to(param.dtype), source.slot)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("num_cols", "sizes"), [(512, [256, 128, 128]), (512, [256]), (100, [50, 30]), (96, [32, 48])])
@pytest.mark.parametrize("name", SCHEMES)
def test_cuda_computes_what_the_cpu_computes(name: str, num_cols: int, sizes: list[int], dtype: torch.dtype) -> None:
    there = filled(SCHEMES[name], num_cols, sizes, "cuda")
    weight_only = there.backend.name == "weight_only"  # which leaves the input as it is
    here = filled(SCHEMES[name], num_cols, sizes, "cpu", backend="reference" if weight_only else None)
    for shape in ((num_cols,), (1, num_cols), (3, 5, num_cols), (0, num_cols), (2, 0, num_cols)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        expected, y = here(x.float()), there(x.cuda())
        assert y.dtype == dtype
        assert y.shape == expected.shape
        assert (y.cpu().float() - expected).norm() <= (5e-3 if dtype != torch.float32 else 1e-3) * expected.norm()
    assert torch.equal(here.dequantize(), there.dequantize().cpu())


@pytest.mark.parametrize(("num_cols", "sizes"), [(256, [128, 64]), (100, [50, 30])])
@pytest.mark.parametrize("name", SCHEMES)
def test_a_captured_graph_computes_with_reloaded_weights(name: str, num_cols: int, sizes: list[int]) -> None:
    made = filled(SCHEMES[name], num_cols, sizes, "cuda")
    x = torch.randn(4, num_cols, device="cuda", dtype=torch.bfloat16)
    made(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = made(x)
    graph.replay()
    assert torch.equal(y, made(x))
    refill(made, seed=5)
    made.finalize()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, filled(SCHEMES[name], num_cols, sizes, "cuda", seed=5)(x))


def test_scaled_mm_is_chosen_where_it_runs_and_says_why_where_not() -> None:
    assert filled(SCHEMES["channel"], 512, [256, 128], "cuda").backend.name == "torch_scaled_mm"
    assert filled(SCHEMES["channel"], 100, [50, 30], "cuda").backend.name == "torch_scaled_mm"
    block = filled(SCHEMES["block"], 512, [256, 128], "cuda")
    assert block.backend.name == ("torch_block" if find_spec("deep_gemm") is None else "deepgemm")
    assert "block 128 x 128" in block.why[0]


def test_a_layer_that_is_moved_is_prepared_again() -> None:
    made = filled(SCHEMES["channel"], 512, [256], "cpu")
    x = torch.randn(3, 512)
    expected = made(x)
    assert (made.cuda()(x.cuda()).cpu() - expected).norm() <= 1e-3 * expected.norm()
