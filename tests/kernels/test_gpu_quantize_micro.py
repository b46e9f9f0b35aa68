"""Inputs as MXFP8, MXFP4 and NVFP4: Triton against torch, to the bit; on a GPU where there is one, else interpreted."""

from __future__ import annotations

import pytest
import torch

from fp8load.dtypes import DType
from fp8load.scheme import SharedExponent
from fp8load_kernels import quantize
from fp8load_kernels.bench.schemes import COMMON
from fp8load_kernels.quantize_mx import quantize_mx
from fp8load_kernels.quantize_nvfp4 import quantize_nvfp4
from fp8load_kernels.quantized import Quantized

GPU = torch.cuda.is_available()
kernels = pytest.importorskip("fp8load_kernels.gpu.quantize_micro", reason="needs triton", exc_type=ImportError)
DEVICE = "cuda" if GPU else "cpu"
SIZES = [(1, 1), (1, 32), (3, 576), (5, 587), (130, 64), (2, 3420)]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
if GPU:
    SIZES += [(700, 7168), (4096, 2880), (1, 53248)]


def inputs(num_rows: int, num_cols: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows of very different size, columns of outliers, groups of zeros."""
    rng = torch.Generator().manual_seed(num_rows + num_cols)
    x = torch.randn(num_rows, num_cols, generator=rng) * torch.randn(num_rows, 1, generator=rng).exp()
    x[:, ::97] *= 20
    x[:, 64:96] = 0
    return x.to(dtype).to(DEVICE)


def corners() -> torch.Tensor:
    """float32 in groups of 32: each power of two with mantissas next to where rules and codes change; ties of E2M1."""
    mantissas = torch.tensor([1, 1.25, 1.5, 1.75, 1.875, 1.9375, 2 - 2.0**-22, 1.75 + 2.0**-23, 1.5 + 2.0**-22])
    rows = []
    for exponent in range(-149, 128, 3):
        first = torch.ldexp(mantissas, torch.tensor(exponent))
        ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 0.0]) * torch.ldexp(
            torch.ones(()), torch.tensor(exponent)
        )
        around = torch.cat([ties, ties.nextafter(torch.tensor(0.0)), ties.nextafter(torch.tensor(9e9))])
        rows += [torch.cat([each.reshape(1), -around[:23], around[:8]])[:32] for each in first]
    return torch.stack(rows).reshape(-1, 96).to(DEVICE)


def assert_same(ours: Quantized, theirs: Quantized) -> None:
    """Everything to the bit; of NaNs that they are."""
    assert ours.codes.dtype == theirs.codes.dtype
    assert torch.equal(ours.codes.view(torch.uint8), theirs.codes.view(torch.uint8))
    assert (ours.dtype, ours.cols) == (theirs.dtype, theirs.cols)
    assert torch.equal(ours.scale.nan_to_num(-1.0), theirs.scale.nan_to_num(-1.0))
    assert ours.block.dtype == theirs.block.dtype
    assert torch.equal(ours.block.float().nan_to_num(-1.0), theirs.block.float().nan_to_num(-1.0))
    assert (ours.level is None) == (theirs.level is None)
    assert ours.level is None or torch.equal(ours.level.nan_to_num(-1.0), theirs.level.nan_to_num(-1.0))


@pytest.mark.parametrize("element", [DType.F8_E4M3, DType.F4])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_rows", "num_cols"), SIZES)
def test_mx_is_that_of_torch(num_rows: int, num_cols: int, dtype: torch.dtype, element: DType) -> None:
    x = inputs(num_rows, num_cols, dtype)

    assert_same(kernels.quantize_mx(x, element, 32, SharedExponent.FLOOR), quantize_mx(x, element))


@pytest.mark.parametrize("cols", [16, 32])
@pytest.mark.parametrize("rule", SharedExponent)
@pytest.mark.parametrize("element", [DType.F8_E4M3, DType.F4])
def test_every_rule_of_the_exponent_at_every_magnitude(element: DType, rule: SharedExponent, cols: int) -> None:
    x = corners()

    assert_same(kernels.quantize_mx(x, element, cols, rule), quantize_mx(x, element, cols, rule))


@pytest.mark.parametrize("stored", [None, 0.01, 1e-30, 3.0])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_rows", "num_cols"), SIZES)
def test_nvfp4_is_that_of_torch(num_rows: int, num_cols: int, dtype: torch.dtype, stored: float | None) -> None:
    x = inputs(num_rows, num_cols, dtype)
    level = None if stored is None else torch.tensor([stored], device=DEVICE)

    assert_same(kernels.quantize_nvfp4(x, level, 16), quantize_nvfp4(x, level))


@pytest.mark.filterwarnings("ignore:overflow", "ignore:underflow", "ignore:divide", "ignore:invalid")  # numpy's
@pytest.mark.parametrize("stored", [None, 0.0, 1.0, 2.0**-100, 2.0**100, float("inf")])
def test_nvfp4_at_every_magnitude(stored: float | None) -> None:
    x, level = corners(), None if stored is None else torch.tensor([stored], device=DEVICE)

    assert_same(kernels.quantize_nvfp4(x, level, 16), quantize_nvfp4(x, level))


@pytest.mark.filterwarnings("ignore:invalid")
@pytest.mark.parametrize("what", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_makes_a_nan_of_its_scale(what: float) -> None:
    x = inputs(3, 96, torch.bfloat16)
    x[1, 40] = what
    level = torch.tensor([0.01], device=DEVICE)

    for ours, theirs in (
        (kernels.quantize_mx(x, DType.F8_E4M3, 32, SharedExponent.FLOOR), quantize_mx(x, DType.F8_E4M3)),
        (kernels.quantize_mx(x, DType.F4, 32, SharedExponent.FLOOR), quantize_mx(x, DType.F4)),
        (kernels.quantize_nvfp4(x, level, 16), quantize_nvfp4(x, level)),
        (kernels.quantize_nvfp4(x, None, 16), quantize_nvfp4(x)),
    ):
        assert torch.equal(ours.scale.isnan(), theirs.scale.isnan())
        assert ours.scale.isnan().any()
        whole = theirs.scale.isfinite()
        assert torch.equal(ours.scale[whole], theirs.scale[whole])
        assert torch.equal(ours.dequantize().nan_to_num(-1.0), theirs.dequantize().nan_to_num(-1.0))


def test_rows_may_be_strided_and_columns_not() -> None:
    x = inputs(6, 200, torch.bfloat16)

    assert_same(kernels.quantize_nvfp4(x[::2, 3:100], None, 16), quantize_nvfp4(x[::2, 3:100]))
    assert_same(kernels.quantize_mx(x[1:, :70], DType.F4, 32, SharedExponent.FLOOR), quantize_mx(x[1:, :70], DType.F4))
    with pytest.raises(ValueError, match=r"call contiguous\(\)"):
        kernels.quantize_mx(x.t(), DType.F4, 32, SharedExponent.FLOOR)
    with pytest.raises(ValueError, match="power of two"):
        kernels.quantize_nvfp4(x, None, 48)


@pytest.mark.parametrize("shape", [(0, 64), (4, 0)])
@pytest.mark.parametrize("stored", [None, 0.01])
def test_nothing_to_quantize(shape: tuple[int, int], stored: float | None) -> None:
    x, level = torch.empty(shape, device=DEVICE), None if stored is None else torch.tensor([stored], device=DEVICE)

    assert_same(kernels.quantize_nvfp4(x, level, 16), quantize_nvfp4(x, level))
    assert_same(kernels.quantize_mx(x, DType.F8_E4M3, 32, SharedExponent.FLOOR), quantize_mx(x, DType.F8_E4M3))


@pytest.mark.parametrize("name", ["MXFP8", "MXFP4", "NVFP4"])
def test_a_scheme_takes_the_kernel_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """And the columns may be apart: they are put next to each other."""
    monkeypatch.setattr(quantize, "_takes", lambda *_: True)
    asked: list[str] = []
    for kind in ("quantize_mx", "quantize_nvfp4"):
        kernel = getattr(kernels, kind)
        monkeypatch.setattr(
            kernels, kind, lambda *given, kernel=kernel, kind=kind: asked.append(kind) or kernel(*given)
        )
    x, scheme = inputs(6, 96, torch.bfloat16), COMMON[name]
    theirs = quantize_nvfp4(x) if name == "NVFP4" else quantize_mx(x, scheme.input.dtype)

    assert_same(quantize.quantize_input(x.t().contiguous().t(), scheme, None), theirs)
    assert asked == ["quantize_nvfp4" if name == "NVFP4" else "quantize_mx"]
