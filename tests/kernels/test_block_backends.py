"""Backends for 128 x 128 blocks: each against float64 where it runs, laid apart and put together anywhere."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from fp8load.dtypes import DType
from fp8load.runtime.backend import Device, LinearWeights, No, Part, Yes
from fp8load.scheme import LinearScheme, PerBlock, PerGroup, QuantSpec
from fp8load_kernels.backends.deepgemm import DeepGemm
from fp8load_kernels.backends.torch_block import TorchBlock
from fp8load_kernels.backends.triton_block import TritonBlock
from fp8load_kernels.blocks import are_whole, column_scales, laid_apart, put_together

SCHEME = LinearScheme(
    weight=QuantSpec(dtype=DType.F8_E4M3, granularity=PerBlock(128, 128), scale_dtype=DType.F32),
    input=QuantSpec(dtype=DType.F8_E4M3, granularity=PerGroup(128)),
)
H200 = Device(kind="cuda", capability=(9, 0), name="NVIDIA H200")
GPU = torch.cuda.is_available()
HOPPER = GPU and torch.cuda.get_device_capability() == (9, 0)
needs_hopper = pytest.mark.skipif(not HOPPER, reason="needs a Hopper GPU")
TOLERANCE = 1e-2
"""Tensor cores of Hopper add products of FP8 with fewer bits than float32 has; outlier columns make 0.5 % of that."""

HAS_DEEPGEMM = find_spec("deep_gemm") is not None
needs_deepgemm = pytest.mark.skipif(not HAS_DEEPGEMM, reason="needs deep_gemm")
BACKENDS = [
    pytest.param(TritonBlock(), id="triton_block"), pytest.param(TorchBlock(), id="torch_block"),
    pytest.param(DeepGemm(), id="deepgemm", marks=needs_deepgemm),
]  # fmt: skip


def fused(rows: tuple[int, ...], num_cols: int, device: str, seed: int = 0) -> LinearWeights:
    """Parts whose grids each begin a row anew, as layers are loaded."""
    rng = torch.Generator().manual_seed(seed)
    parts, at, grid = [], 0, 0
    for number, size in enumerate(rows):
        height = -(-size // 128)
        parts.append(Part(str(number), slice(at, at + size), slice(grid, grid + height)))
        at, grid = at + size, grid + height
    weight = (torch.randn(at, num_cols, generator=rng) * 30).to(torch.float8_e4m3fn)
    scale = (torch.rand(grid, -(-num_cols // 128), generator=rng) + 0.1) / 100
    return LinearWeights(
        scheme=SCHEME, shape=(at, num_cols), parts=tuple(parts), weight=weight.to(device), weight_scale=scale.to(device)
    )


@pytest.mark.parametrize("rows", [(256, 128), (576, 192, 192), (100, 28), (64,)])
def test_parts_are_laid_apart_and_put_together(rows: tuple[int, ...]) -> None:
    weights = fused(rows, 256, "cpu")
    apart = laid_apart(weights)
    scale = weights.weight_scale
    assert scale is not None
    real = apart.float() * scale.repeat_interleave(128, 0)[: len(apart)].repeat_interleave(128, 1)
    x = torch.randn(3, 256)

    assert are_whole(weights) == (rows in ((256, 128), (64,)))
    torch.testing.assert_close(put_together(x @ real.T, weights), x @ weights.dequantize().T)
    again = laid_apart(weights, apart)
    assert again.data_ptr() == apart.data_ptr()


def test_scales_lie_column_by_column() -> None:
    scale = column_scales(5, 300, device=torch.device("cpu"))

    assert scale.shape == (5, 3)
    assert scale.stride() == (1, 8)


@pytest.mark.parametrize(("scheme", "shape", "device", "reason"), [
    (SCHEME, (130, 256), H200, "multiples of"), (SCHEME, (128, 200), H200, "multiples of"),
    (SCHEME, (128, 256), Device(kind="cuda", capability=(8, 9)), "9.0"),
    (SCHEME, (128, 256), Device(kind="cpu"), "9.0"),
    (LinearScheme(weight=SCHEME.weight), (128, 256), H200, "weight-only"),
    (LinearScheme(weight=QuantSpec(dtype=DType.F8_E4M3, granularity=PerBlock(64, 64)),
                  input=QuantSpec(dtype=DType.F8_E4M3, granularity=PerGroup(64))), (128, 256), H200, "128 x 128"),
])  # fmt: skip
@pytest.mark.parametrize("backend", [DeepGemm(), TorchBlock()], ids=lambda it: it.name)
def test_it_says_what_it_does_not_take(backend, scheme, shape, device: Device, reason: str) -> None:
    verdict = backend.supports(scheme, shape, device)

    assert isinstance(verdict, No)
    assert reason in verdict.reason


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
def test_on_a_hopper_torch_takes_blocks_and_deepgemm_where_it_is_installed() -> None:
    assert isinstance(TorchBlock().supports(SCHEME, (256, 256), H200), Yes)
    verdict = DeepGemm().supports(SCHEME, (256, 256), H200)
    assert isinstance(verdict, Yes) if HAS_DEEPGEMM else "pip install fp8load[deepgemm]" in verdict.reason


def quantized(x: torch.Tensor) -> torch.Tensor:
    """The input as 1 x 128 quantization leaves it, float64."""
    groups = x.float().reshape(len(x), -1, 128)
    scale = groups.abs().amax(-1, keepdim=True) / 448
    return ((groups / scale).to(torch.float8_e4m3fn).double() * scale.double()).reshape(x.shape)


@needs_hopper
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("num_tokens", [0, 1, 3, 17, 64, 129, 1000])
@pytest.mark.parametrize(("rows", "num_cols"), [((1024, 512), 1024), ((576, 192, 192), 1536), ((4096,), 7168)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_layer_is_the_product_of_its_quantized_operands(
    backend, rows, num_cols: int, num_tokens: int, biased: bool, dtype: torch.dtype
) -> None:
    weights = fused(rows, num_cols, "cuda")
    assert isinstance(backend.supports(SCHEME, weights.shape, H200), Yes)
    x = torch.randn(num_tokens, num_cols, device="cuda", dtype=dtype)
    x[:, ::97] *= 8
    bias = torch.randn(sum(rows), device="cuda", dtype=dtype) if biased else None

    y = backend.apply(backend.prepare(weights), x, bias)

    assert (y.shape, y.dtype) == ((num_tokens, sum(rows)), dtype)
    if num_tokens:
        reference = quantized(x) @ weights.dequantize().double().T + (0 if bias is None else bias.double())
        assert (y.double() - reference).norm() < TOLERANCE * reference.norm()


@needs_hopper
@pytest.mark.parametrize("num_tokens", [1, 256])
@pytest.mark.parametrize("rows", [(512, 256), (576, 192, 192)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_captured_graph_computes_with_new_weights(backend, rows, num_tokens: int) -> None:
    weights, other = fused(rows, 1024, "cuda"), fused(rows, 1024, "cuda", seed=1)
    assert isinstance(backend.supports(SCHEME, weights.shape, H200), Yes)
    x = torch.randn(num_tokens, 1024, device="cuda", dtype=torch.bfloat16)
    prepared = backend.prepare(weights)
    backend.apply(prepared, x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = backend.apply(prepared, x)

    weights.weight.copy_(other.weight)
    assert weights.weight_scale is not None
    weights.weight_scale.copy_(other.weight_scale)
    backend.prepare(weights, prepared)
    graph.replay()
    torch.cuda.synchronize()

    assert torch.equal(y, backend.apply(backend.prepare(other), x))
