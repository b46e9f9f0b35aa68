"""`torch_mx` on a Blackwell GPU, against float64. Nobody has run this so far."""

from __future__ import annotations

import pytest
import torch

from fp8load.runtime.backend import Yes, device_of
from fp8load_kernels.backends.torch_mx import TorchMX
from fp8load_kernels.bench.operands import random_input, random_weights
from fp8load_kernels.bench.schemes import COMMON
from fp8load_kernels.quantize import quantize_input

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() < (10, 0), reason="needs a Blackwell GPU"
    ),
]
BACKEND = TorchMX()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("num_tokens", [0, 1, 3, 17, 129, 1000])
@pytest.mark.parametrize(("rows", "num_cols"), [((256,), 256), ((50,), 72), ((576, 192, 192), 1536)])
@pytest.mark.parametrize("kind", ["MXFP8", "MXFP4", "NVFP4"])
def test_the_layer_is_the_product_of_its_quantized_operands(kind, rows, num_cols, num_tokens, biased, dtype) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    weights = random_weights(COMMON[kind], [(str(i), n) for i, n in enumerate(rows)], num_cols, generator)
    verdict = BACKEND.supports(weights.scheme, weights.shape, device_of(torch.device("cuda")))
    if not isinstance(verdict, Yes):
        pytest.skip(verdict.reason)
    x = random_input(num_tokens, num_cols, generator).to(dtype)
    bias = torch.randn(sum(rows), device="cuda", dtype=dtype) if biased else None
    prepared = BACKEND.prepare(weights)

    y = BACKEND.apply(prepared, x, bias)

    assert (tuple(y.shape), y.dtype) == ((num_tokens, sum(rows)), dtype)
    if num_tokens:
        given = quantize_input(x, weights.scheme, None, prepared.input_global_scale).dequantize().double()
        reference = given @ weights.dequantize().double().T + (0 if bias is None else bias.double())
        assert (y.double() - reference).norm() < 1e-2 * reference.norm()


@pytest.mark.parametrize("kind", ["MXFP8", "MXFP4", "NVFP4"])
def test_a_captured_graph_computes_with_new_weights(kind: str) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    weights, other = (random_weights(COMMON[kind], [("a", 50), ("b", 78)], 320, generator) for _ in range(2))
    verdict = BACKEND.supports(weights.scheme, weights.shape, device_of(torch.device("cuda")))
    if not isinstance(verdict, Yes):
        pytest.skip(verdict.reason)
    x = random_input(5, 320, generator)
    prepared = BACKEND.prepare(weights)
    BACKEND.apply(prepared, x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = BACKEND.apply(prepared, x)

    for name in ("weight", "weight_scale", "weight_global_scale", "input_global_scale"):
        mine, new = getattr(weights, name), getattr(other, name)
        if mine is not None:
            mine.view(torch.uint8).copy_(new.view(torch.uint8))
    BACKEND.prepare(weights, prepared)
    graph.replay()
    torch.cuda.synchronize()

    assert torch.equal(y, BACKEND.apply(BACKEND.prepare(other), x))
