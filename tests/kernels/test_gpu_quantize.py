"""The Triton kernels that quantize activations against the torch ones: on a GPU where there is one, else interpreted.

Triton's interpreter does not round to FP8 as the hardware does (1.99 becomes 1), so there torch rounds.
"""

from __future__ import annotations

import pytest
import torch

from fp8load.dtypes import DType
from fp8load.scheme import PerGroup, PerTensor, PerToken, QuantSpec
from fp8load_kernels.quantized import Quantized, to_codes
from fp8load_kernels.torch_quantize import torch_dynamic, torch_static

GPU = torch.cuda.is_available()
kernels = pytest.importorskip("fp8load_kernels.gpu.quantize", reason="needs triton", exc_type=ImportError)
largest_scale, quantize_tensor = kernels.largest_scale, kernels.quantize_tensor
quantize_groups, quantize_rows = kernels.quantize_groups, kernels.quantize_rows
DEVICE = "cuda" if GPU else "cpu"
SIZES = [(1, 1), (1, 128), (3, 576), (5, 587), (7, 1000), (2, 3420), (4, 4096)]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def inputs(num_rows: int, num_cols: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Rows of very different size, and columns of outliers."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(num_rows, num_cols, generator=rng) * torch.randn(num_rows, 1, generator=rng).exp()
    x[:, ::97] *= 20
    x[:, 5:6] = 0
    return x.to(dtype).to(DEVICE)


@pytest.fixture(autouse=True)
def _unrounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreted, the kernels leave the last step to torch."""
    if not GPU:
        monkeypatch.setattr(kernels, "FP8_DTYPES", dict.fromkeys(DType, torch.float32))


def assert_same(ours: Quantized, theirs: Quantized) -> None:
    """Scales to the bit; codes too, but for elements next to a tie."""
    assert torch.equal(ours.scale, theirs.scale)
    assert ours.codes.shape == theirs.codes.shape
    codes = (q.codes if q.codes.dtype != torch.float32 else to_codes(q.codes, q.dtype) for q in (ours, theirs))
    mine, other = (each.view(torch.uint8).int() for each in codes)
    assert ((mine - other).abs() <= 1).all()
    assert (mine != other).sum() <= max(2, mine.numel() // 2000)


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_rows", "num_cols"), SIZES)
def test_rows_and_groups_are_quantized_as_torch_does(
    num_rows: int, num_cols: int, dtype: torch.dtype, *, power_of_two: bool
) -> None:
    x = inputs(num_rows, num_cols, dtype)
    by_row, by_group = (QuantSpec(dtype=DType.F8_E4M3, granularity=kind) for kind in (PerToken(), PerGroup(128)))

    rows = quantize_rows(x, DType.F8_E4M3, power_of_two=power_of_two)
    assert_same(rows, torch_dynamic(x, by_row, power_of_two=power_of_two))
    groups = quantize_groups(x, DType.F8_E4M3, power_of_two=power_of_two)
    assert_same(groups, torch_dynamic(x, by_group, power_of_two=power_of_two))


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_scale_for_all(dtype: torch.dtype) -> None:
    x = inputs(6, 500, dtype)
    spec = QuantSpec(dtype=DType.F8_E4M3, granularity=PerTensor())
    scale = largest_scale(x, DType.F8_E4M3)

    assert_same(quantize_tensor(x, DType.F8_E4M3, scale), torch_dynamic(x, spec))
    stored = torch.tensor([0.003], device=DEVICE)  # clamps
    assert_same(quantize_tensor(x, DType.F8_E4M3, stored), torch_static(x, DType.F8_E4M3, stored))


def test_scales_go_where_a_product_wants_them() -> None:
    x = inputs(5, 700, torch.bfloat16)
    memory = torch.full((6, 8), -1.0, device=DEVICE)

    written = quantize_groups(x, DType.F8_E4M3, scale=memory.t()[:5, :6])

    assert torch.equal(written.scale, quantize_groups(x, DType.F8_E4M3).scale)
    assert (memory[:, 5:] == -1).all()
    with pytest.raises(ValueError, match=r"\[5, 6\]"):
        quantize_groups(x, DType.F8_E4M3, scale=memory)


def test_an_upper_bound_of_the_magnitude() -> None:
    x = inputs(4, 300, torch.bfloat16)

    bounded, free = quantize_rows(x, DType.F8_E4M3, upper=0.5), quantize_rows(x, DType.F8_E4M3)

    assert torch.equal(bounded.scale, free.scale.clamp_max(torch.tensor(0.5, device=DEVICE) / 448))
    assert bounded.dequantize().abs().max() <= 0.5 * (1 + 1e-6)
    spec = QuantSpec(dtype=DType.F8_E4M3, granularity=PerToken(), upper_bound=0.5)
    assert_same(bounded, torch_dynamic(x, spec))


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's, where it interprets
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_seen(bad: float) -> None:
    x = inputs(2, 256, torch.bfloat16)
    x[1, 200] = bad

    for quantized in (quantize_rows(x, DType.F8_E4M3), quantize_groups(x, DType.F8_E4M3)):
        values = quantized.dequantize()
        assert values[0].isfinite().all()
        assert values[1, 200].isnan() or values[1, 200].isinf()


def test_rows_may_be_strided_and_columns_may_not() -> None:
    x = inputs(6, 256, torch.bfloat16)

    assert_same(quantize_rows(x[::2, :200], DType.F8_E4M3), quantize_rows(x[::2, :200].contiguous(), DType.F8_E4M3))
    assert_same(quantize_groups(x[1::2], DType.F8_E4M3), quantize_groups(x[1::2].contiguous(), DType.F8_E4M3))
    for call in (quantize_rows, quantize_groups):
        with pytest.raises(ValueError, match=r"strides \[1, 256\]"):
            call(x.t(), DType.F8_E4M3)


def test_no_tokens() -> None:
    x = inputs(0, 256, torch.bfloat16)

    assert quantize_rows(x, DType.F8_E4M3).codes.shape == (0, 256)
    assert quantize_groups(x, DType.F8_E4M3).scale.shape == (0, 2)
