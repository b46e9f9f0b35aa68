"""The Triton product with scales of blocks, against float64: on a GPU where there is one, else interpreted."""

from __future__ import annotations

import pytest
import torch

from fp8load.dtypes import DType
from fp8load.runtime.backend import Device, LinearWeights, No, Part, Yes
from fp8load.scheme import LinearScheme, PerBlock, PerGroup, QuantSpec
from fp8load_kernels.backends.triton_block import TritonBlock
from fp8load_kernels.derive import grid_rows

GPU = torch.cuda.is_available()
kernels = pytest.importorskip("fp8load_kernels.gpu.block", reason="needs triton", exc_type=ImportError)
DEVICE = "cuda" if GPU else "cpu"
SIZES = [(1, 128, 128), (3, 64, 256), (5, 200, 300), (17, 130, 256), (16, 576, 587), (2, 1000, 576)]
if GPU:
    SIZES += [(70, 3420, 1000), (300, 1536, 7168), (4096, 2112, 7168), (1, 28672, 4096)]


def operands(sizes: tuple[int, int, int], block: tuple[int, int]) -> tuple[torch.Tensor, ...]:
    """Codes and scales of x [M, K] and W [N, K], with columns of outliers."""
    num_tokens, num_rows, num_cols = sizes
    rng = torch.Generator().manual_seed(sum(sizes))
    x, w = (torch.randn(rows, num_cols, generator=rng) * 30 for rows in (num_tokens, num_rows))
    x[:, ::31] *= 8
    groups, grid = -(-num_cols // block[1]), -(-num_rows // block[0])
    x_scale, w_scale = ((torch.rand(rows, groups, generator=rng) + 0.1) / 100 for rows in (num_tokens, grid))
    codes = (each.clamp(-448, 448).to(torch.float8_e4m3fn) for each in (x, w))
    return tuple(each.to(DEVICE) for each in (*codes, x_scale, w_scale))


def expected(x: torch.Tensor, w: torch.Tensor, x_scale: torch.Tensor, w_scale: torch.Tensor, bk: int) -> torch.Tensor:
    """The product of the dequantized operands, float64; `w_scale` has a row for each row of W."""
    num_cols = x.shape[1]
    left, right = (
        codes.double() * scale.double().repeat_interleave(bk, 1)[:, :num_cols]
        for codes, scale in ((x, x_scale), (w, w_scale))
    )
    return left @ right.T


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("block", [(128, 128), (64, 32), (24, 128)])
@pytest.mark.parametrize("sizes", SIZES)
def test_the_product_is_that_of_the_dequantized_operands(
    sizes: tuple[int, int, int], block: tuple[int, int], dtype: torch.dtype
) -> None:
    x, w, x_scale, w_scale = operands(sizes, block)
    bias = torch.linspace(-5, 5, sizes[1], device=DEVICE).to(dtype)
    rows = w_scale.repeat_interleave(block[0], 0)[: sizes[1]]
    reference = expected(x, w, x_scale, rows, block[1]) + bias.double()

    y = kernels.block_product(x, x_scale, w, w_scale, None, block, dtype, bias)
    again = kernels.block_product(x, x_scale.t().contiguous().t(), w, w_scale, None, block, dtype, bias)

    assert y.dtype == dtype
    error = (y.double() - reference).norm() / reference.norm()
    assert error < {torch.float32: 1e-3 if GPU else 1e-6, torch.float16: 1e-3, torch.bfloat16: 4e-3}[dtype]
    assert torch.equal(y, again)


def fused(rows: tuple[int, ...], num_cols: int) -> LinearWeights:
    """Parts whose grids each begin a row anew, as layers are loaded."""
    spec = QuantSpec(dtype=DType.F8_E4M3, granularity=PerBlock(128, 128), scale_dtype=DType.F32)
    given = QuantSpec(dtype=DType.F8_E4M3, granularity=PerGroup(128))
    parts, at, grid = [], 0, 0
    for number, size in enumerate(rows):
        height = -(-size // 128)
        parts.append(Part(str(number), slice(at, at + size), slice(grid, grid + height)))
        at, grid = at + size, grid + height
    _, w, _, _ = operands((1, at, num_cols), (128, 128))
    scale = torch.rand(grid, -(-num_cols // 128), device=DEVICE) + 0.1
    scheme = LinearScheme(weight=spec, input=given)
    return LinearWeights(scheme=scheme, shape=(at, num_cols), parts=tuple(parts), weight=w, weight_scale=scale)


@pytest.mark.parametrize("rows", [(256, 128), (576, 192, 192), (100, 28), (64,)])
def test_fused_parts_that_end_within_a_block_keep_their_scales(rows: tuple[int, ...]) -> None:
    weights, backend = fused(rows, 300), TritonBlock()
    prepared = backend.prepare(weights)
    x = torch.randn(2, 3, 300, device=DEVICE)
    emulated = x.reshape(6, 300)

    y = backend.apply(prepared, x)

    assert (grid_rows(weights) is None) == (rows in ((256, 128), (64,)))
    assert y.shape == (2, 3, sum(rows))
    reference = emulated @ weights.dequantize().T
    assert (y.reshape(6, -1) - reference).norm() < 0.04 * reference.norm()  # inputs are quantized


def test_preparing_again_keeps_addresses() -> None:
    weights, backend = fused((100, 28), 256), TritonBlock()
    first = backend.prepare(weights)
    assert first.grid_rows is not None

    second = backend.prepare(weights, first)

    assert second.grid_rows is not None
    assert second.grid_rows.data_ptr() == first.grid_rows.data_ptr()
    assert second.weight.data_ptr() == weights.weight.data_ptr()


@pytest.mark.parametrize(("device", "verdict"), [
    (Device(kind="cuda", capability=(9, 0)), Yes()), (Device(kind="cuda", capability=(8, 9)), Yes()),
    (Device(kind="cuda", capability=(8, 0)), No("needs compute capability 8.9, and this is cuda, 8.0")),
    (Device(kind="cpu"), No("runs on CUDA, not on cpu")),
])  # fmt: skip
def test_it_says_where_it_runs(device: Device, verdict: Yes | No) -> None:
    assert TritonBlock().supports(fused((64,), 128).scheme, (64, 128), device) == verdict
