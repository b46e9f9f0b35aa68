"""Activation and quantization in one Triton launch, against torch's operations: on a GPU, else interpreted.

Triton's interpreter does not round to FP8 as the hardware does, so there torch rounds.
"""

from __future__ import annotations

import pytest
import torch

from fp8load.dtypes import DType
from fp8load.runtime.activation import Activation, activated, parse_activation
from fp8load.runtime.routing import route
from fp8load.scheme import PerGroup, PerToken, QuantSpec
from fp8load_kernels.quantized import Quantized, to_codes
from fp8load_kernels.torch_quantize import torch_dynamic, torch_static

GPU = torch.cuda.is_available()
kernels = pytest.importorskip("fp8load_kernels.gpu.activation", reason="needs triton", exc_type=ImportError)
DEVICE = "cuda" if GPU else "cpu"
CASES = [
    (576, "silu"), (587, "gelu"), (7, "relu2"), (128, "limited-silu:1.5"), (130, "clamped-swiglu:1.5"), (2100, "silu")
]  # fmt: skip
ROUTING = route(torch.tensor([[2, 3], [5, 2], [0, 5]], device=DEVICE), range(2, 6), 2)
NOBODY = ROUTING.expert < 0


@pytest.fixture(autouse=True)
def _unrounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreted, the kernels leave the last step to torch."""
    if not GPU:
        monkeypatch.setattr(kernels, "FP8_DTYPES", dict.fromkeys(DType, torch.float32))


def inputs(num_cols: int, activation: Activation, dtype: torch.dtype) -> torch.Tensor:
    rng = torch.Generator().manual_seed(num_cols)
    y = torch.randn(ROUTING.num_rows, num_cols * (2 if activation.gated else 1), generator=rng) * 2
    y = y.to(DEVICE)
    y[NOBODY] = float("nan")
    return y.to(dtype)


def expected(y: torch.Tensor, activation: Activation) -> torch.Tensor:
    return torch.where(NOBODY[:, None], 0.0, activated(y, activation)).to(y.dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("num_cols", "text"), CASES)
def test_rows_are_activated_in_float32(num_cols: int, text: str, dtype: torch.dtype) -> None:
    activation = parse_activation(text)
    y = inputs(num_cols, activation, dtype)

    h = kernels.activate(y, activation, ROUTING)

    assert h.dtype == dtype
    one_ulp = {torch.bfloat16: 2**-7, torch.float16: 2**-10, torch.float32: 1e-5}[dtype]
    torch.testing.assert_close(h, expected(y, activation), rtol=one_ulp, atol=1e-6)
    assert (h[NOBODY] == 0).all()


def assert_same(ours: Quantized, theirs: Quantized) -> None:
    """Of rows that are somebody's: the same numbers but for exponentials that are off by an ulp."""
    mine = ~NOBODY
    torch.testing.assert_close(ours.scale[mine], theirs.scale[mine], rtol=1e-2, atol=0)
    codes = ours.codes if ours.codes.dtype != torch.float32 else to_codes(ours.codes, ours.dtype)
    values, others = (
        Quantized(codes=of.view(torch.float8_e4m3fn), dtype=ours.dtype, scale=by.scale, cols=by.cols).dequantize()
        for of, by in ((codes, ours), (theirs.codes, theirs))
    )
    error = (values - others)[mine].norm()
    assert error <= 0.01 * others[mine].norm()


@pytest.mark.parametrize(("dtype", "power_of_two"), [(torch.bfloat16, False), (torch.float32, True)])
@pytest.mark.parametrize(("num_cols", "text"), CASES)
def test_what_is_activated_is_quantized_as_by_two_launches(
    num_cols: int, text: str, dtype: torch.dtype, *, power_of_two: bool
) -> None:
    activation = parse_activation(text)
    y = inputs(num_cols, activation, dtype)
    h = kernels.activate(y, activation, ROUTING)

    for kind, cols in ((PerGroup(128), 128), (PerToken(), None)):
        spec = QuantSpec(dtype=DType.F8_E4M3, granularity=kind)
        ours = kernels.activate_and_quantize(
            y, activation, ROUTING, DType.F8_E4M3, cols=cols, power_of_two=power_of_two
        )
        theirs = torch_dynamic(h, spec, power_of_two=power_of_two)
        assert ours.scale.shape == theirs.scale.shape
        assert_same(ours, theirs)


def test_scales_go_where_a_product_wants_them() -> None:
    activation = Activation("silu")
    y = inputs(300, activation, torch.bfloat16)
    room = torch.full((4, ROUTING.num_rows), -1.0, device=DEVICE)

    found = kernels.activate_and_quantize(y, activation, ROUTING, DType.F8_E4M3, cols=128, scale=room.t()[:, :3])

    plain = kernels.activate_and_quantize(y, activation, ROUTING, DType.F8_E4M3, cols=128)
    assert torch.equal(found.scale[~NOBODY], plain.scale[~NOBODY])
    assert (room[3] == -1).all()
    assert (room[:, NOBODY] == -1).all()


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")  # numpy's: over the smallest scale 4.5 is infinite
@pytest.mark.parametrize("by_token", [False, True])
def test_each_row_is_divided_by_the_scale_of_its_expert(*, by_token: bool) -> None:
    scale = torch.tensor([0.01, 0.003, 0.1, 0.0], device=DEVICE)
    x = torch.randn(3 if by_token else ROUTING.num_rows, 500, device=DEVICE).bfloat16()
    x[:, 7] = 4.5

    found = kernels.quantize_by_expert(x, scale, ROUTING, DType.F8_E4M3, by_token=by_token)

    codes = found.codes if GPU else to_codes(found.codes, DType.F8_E4M3)
    for row in range(ROUTING.num_rows):
        if not NOBODY[row]:
            source = x[ROUTING.token[row] if by_token else row][None]
            theirs = torch_static(source, DType.F8_E4M3, scale[ROUTING.expert[row]])
            assert torch.equal(found.scale[row], theirs.scale[0])
            off = (codes[row].view(torch.uint8).int() - theirs.codes[0].view(torch.uint8).int()).abs()
            assert off.max() <= 1
            assert (off > 0).sum() <= 2
