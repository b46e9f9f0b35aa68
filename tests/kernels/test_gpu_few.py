"""The product for few tokens, which quantizes one, against float64: on a GPU where there is one, else interpreted."""

from __future__ import annotations

import pytest
import torch

from fp8load.dtypes import DType
from fp8load.scheme import PerGroup, PerToken, QuantSpec
from fp8load_kernels.quantized import Quantized, by_column
from fp8load_kernels.torch_quantize import torch_dynamic

GPU = torch.cuda.is_available()
kernels = pytest.importorskip("fp8load_kernels.gpu.few", reason="needs triton", exc_type=ImportError)
DEVICE = "cuda" if GPU else "cpu"
SIZES = [(1, 128, 256), (3, 64, 512), (5, 200, 300), (17, 130, 1024), (2, 100, 587)]
if GPU:
    SIZES += [(1, 28672, 4096), (16, 4096, 14336), (64, 6144, 4096), (33, 3420, 1000), (8, 512, 16384), (70, 576, 7168)]
F8 = DType.F8_E4M3


def weight(num_rows: int, num_cols: int, block: tuple[int, int] | None) -> kernels.Weight:
    """Codes with outlier columns, and scales by row or in blocks."""
    rng = torch.Generator().manual_seed(num_rows + num_cols)
    codes = torch.randn(num_rows, num_cols, generator=rng) * 30
    codes[:, ::31] *= 8
    grid = (num_rows, 1) if block is None else (-(-num_rows // block[0]), -(-num_cols // block[1]))
    scale = (torch.rand(grid, generator=rng) + 0.1) / 1000  # products that F16 holds
    return kernels.Weight(codes.clamp(-448, 448).to(torch.float8_e4m3fn).to(DEVICE), scale.to(DEVICE), block)


def tokens(num_tokens: int, num_cols: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows of very different magnitudes, a row of zeros among several."""
    x = torch.randn(num_tokens, num_cols, generator=torch.Generator().manual_seed(num_tokens))
    x *= torch.logspace(-2, 1, num_tokens)[:, None]
    x[:, ::17] *= 20
    if num_tokens > 2:
        x[1] = 0
    return x.to(dtype).to(DEVICE)


def quantized(x: torch.Tensor, block: tuple[int, int] | None, *, power: bool) -> Quantized:
    """The input as its scheme quantizes it, by torch's operations."""
    granularity = PerToken() if block is None else PerGroup(block[1])
    return torch_dynamic(x, QuantSpec(dtype=F8, granularity=granularity), power_of_two=power)


def exact(q: Quantized, w: kernels.Weight) -> torch.Tensor:
    """The product of the dequantized operands, float64."""
    scale = w.scale.double()
    if w.block is not None:
        scale = scale.repeat_interleave(w.block[0], 0)[: len(w.codes)]
        scale = by_column(scale, w.block[1], w.codes.shape[1]) if scale.shape[1] > 1 else scale
    return q.dequantize().double() @ (w.codes.double() * scale).T


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("block", [None, (128, 128), (24, 64), (256, 256)])
@pytest.mark.parametrize("sizes", SIZES)
def test_the_product_is_that_of_the_quantized_operands(
    sizes: tuple[int, int, int], block: tuple[int, int] | None, dtype: torch.dtype
) -> None:
    num_tokens, num_rows, num_cols = sizes
    w, x = weight(num_rows, num_cols, block), tokens(num_tokens, num_cols, dtype)
    bias = torch.linspace(-5, 5, num_rows, device=DEVICE).to(dtype)
    q = quantized(x, block, power=dtype == torch.float16)
    reference = exact(q, w) + bias.double()

    y = kernels.few_product(q.codes, q.scale, w, dtype, bias)
    again = kernels.few_product(q.codes, q.scale.t().contiguous().t(), w, dtype, bias)

    assert y.dtype == dtype
    error = (y.double() - reference).norm() / reference.norm()
    assert error < {torch.float32: 1e-3 if GPU else 1e-6, torch.float16: 1e-3, torch.bfloat16: 4e-3}[dtype]
    assert torch.equal(y, again)


def test_one_scale_for_all_rows_needs_no_copy() -> None:
    w, x = weight(100, 512, None), tokens(3, 512, torch.bfloat16)
    q = quantized(x, None, power=False)
    one = kernels.Weight(w.codes, w.scale[:1].expand(100, 1))

    y = kernels.few_product(q.codes, q.scale, one, torch.float32)
    same = kernels.few_product(q.codes, q.scale, kernels.Weight(w.codes, one.scale.contiguous()), torch.float32)

    assert torch.equal(y, same)


def test_no_tokens_are_no_launch() -> None:
    w = weight(64, 256, None)
    nothing = torch.empty(0, 256, dtype=torch.float8_e4m3fn, device=DEVICE)

    assert kernels.few_product(nothing, torch.ones(0, 1, device=DEVICE), w, torch.bfloat16).shape == (0, 64)


@pytest.mark.parametrize("block", [None, (128, 128)])
@pytest.mark.parametrize("num_tokens", [1, 17, 33, 64])
def test_a_tile_fits_into_the_shared_memory_of_small_gpus(num_tokens: int, block: tuple[int, int] | None) -> None:
    """99 KiB on 8.9 and 12.0; operands of one step fewer than there are stages lie in it at once."""
    for num_rows in (128, 4096, 8192, 28672):
        tile = kernels.tile_of(num_tokens, (num_rows, 4096), block, 142, large=False)

        assert (tile.m + tile.n) * tile.k * (tile.num_stages - 1) <= 99 * 1024
