"""The product for few tokens, which quantizes one, against float64: on a GPU where there is one, else interpreted."""

from __future__ import annotations

import pytest
import torch

from fp8load.dtypes import DType
from fp8load.scheme import PerGroup, PerToken, QuantSpec
from fp8load_kernels.quantized import Quantized, by_column
from fp8load_kernels.torch_quantize import torch_dynamic, torch_static

GPU = torch.cuda.is_available()
kernels = pytest.importorskip("fp8load_kernels.gpu.few", reason="needs triton", exc_type=ImportError)
DEVICE = "cuda" if GPU else "cpu"
SIZES = [(1, 128, 256), (3, 64, 512), (5, 200, 300), (17, 130, 1024), (2, 100, 587)]
if GPU:
    SIZES += [(1, 28672, 4096), (16, 4096, 14336), (64, 6144, 4096), (33, 3420, 1000), (8, 512, 16384), (70, 576, 7168)]
F8 = DType.F8_E4M3
Given = kernels.Given


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


def quantized(
    x: torch.Tensor, given: int, block: tuple[int, int] | None, stored: torch.Tensor, power: bool
) -> Quantized:
    """What the kernel makes of its input, by torch's operations."""
    if given == Given.STATIC:
        return torch_static(x, F8, stored)
    granularity = PerToken() if block is None else PerGroup(block[1])
    return torch_dynamic(x, QuantSpec(dtype=F8, granularity=granularity), power_of_two=power)


def exact(q: Quantized, w: kernels.Weight) -> torch.Tensor:
    """The product of the dequantized operands, float64."""
    scale = w.scale.double()
    if w.block is not None:
        scale = scale.repeat_interleave(w.block[0], 0)[: len(w.codes)]
        scale = by_column(scale, w.block[1], w.codes.shape[1]) if scale.shape[1] > 1 else scale
    return q.dequantize().double() @ (w.codes.double() * scale).T


CASES = [
    (None, Given.STATIC), (None, Given.CODES),
    ((128, 128), Given.CODES), ((24, 64), Given.CODES), ((256, 256), Given.CODES),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("block", "given"), CASES)
@pytest.mark.parametrize("sizes", SIZES)
def test_the_product_is_that_of_the_quantized_operands(
    sizes: tuple[int, int, int], block: tuple[int, int] | None, given: int, dtype: torch.dtype
) -> None:
    num_tokens, num_rows, num_cols = sizes
    w, x = weight(num_rows, num_cols, block), tokens(num_tokens, num_cols, dtype)
    stored = x.abs().amax().float().reshape(1) / 1000
    bias = torch.linspace(-5, 5, num_rows, device=DEVICE).to(dtype)
    q = quantized(x, given, block, stored, power=dtype == torch.float16)
    given_x = kernels.Input(given, q.codes, q.scale) if given == Given.CODES else kernels.Input(given, x, stored)
    reference = exact(q, w) + bias.double()

    y = kernels.few_product(given_x, w, dtype, bias)
    again = kernels.few_product(given_x, w, dtype, bias)

    assert y.dtype == dtype
    error = (y.double() - reference).norm() / reference.norm()
    assert error < {torch.float32: 1e-3 if GPU else 1e-6, torch.float16: 1e-3, torch.bfloat16: 4e-3}[dtype]
    assert torch.equal(y, again)


def test_a_static_scale_goes_with_scales_by_row() -> None:
    x = kernels.Input(Given.STATIC, tokens(2, 512, torch.bfloat16), torch.ones(1, device=DEVICE))

    with pytest.raises(ValueError, match="scales by row"):
        kernels.few_product(x, weight(64, 512, (128, 128)), torch.bfloat16)
