"""Weight-only products and unpacking in Triton against float64: on a GPU where there is one, else interpreted."""

from __future__ import annotations

import pytest
import torch

from fp8load.dtypes import DType
from fp8load.runtime.backend import Device, No, Yes
from fp8load.runtime.dequantize import decode_weight
from fp8load.scheme import LinearScheme, NibbleOrder, PerGroup, QuantSpec, Storage, Transform
from fp8load_kernels.backends.weight_only import TritonWeightOnly
from kernels.coded import DEVICE, SCHEMES, made, scheme, tokens

GPU = torch.cuda.is_available()
unpack = pytest.importorskip("fp8load_kernels.gpu.unpack", reason="needs triton", exc_type=ImportError)
A100 = Device(kind="cuda", capability=(8, 0), name="NVIDIA A100")
SIZES = [(1, 128, 256), (5, 200, 320), (2, 100, 586), (17, 70, 1024)]
if GPU:
    SIZES += [(1, 28672, 4096), (16, 4096, 14336), (64, 6144, 4096), (65, 3420, 1000), (300, 576, 7168)]
BACKEND = TritonWeightOnly()

CASES = [
    (sizes, dtype) for i, sizes in enumerate(SIZES) for dtype in (torch.bfloat16, torch.float16, torch.float32)
    if GPU or dtype == torch.bfloat16 or i == 1  # interpreting takes its time
]  # fmt: skip


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(("sizes", "dtype"), CASES)
def test_the_product_is_that_of_the_dequantized_weight(
    sizes: tuple[int, int, int], name: str, dtype: torch.dtype
) -> None:
    num_tokens, num_rows, num_cols = sizes
    weights, x = made(name, (num_rows - 30, 20, 10), num_cols), tokens(num_tokens, num_cols, dtype)
    bias = torch.linspace(-5, 5, num_rows, device=DEVICE).to(dtype)
    reference = x.double() @ weights.dequantize().double().T + bias.double()
    prepared = BACKEND.prepare(weights)

    y, again = BACKEND.apply(prepared, x, bias), BACKEND.apply(prepared, x, bias)

    assert y.dtype == dtype
    assert torch.equal(y, again)
    error = (y.double() - reference).norm() / reference.norm()
    assert error < {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}[dtype]


@pytest.mark.parametrize("name", SCHEMES)
def test_unpacked_rows_are_those_of_the_dequantized_weight(name: str) -> None:
    weights = made(name, (70, 30), 586)
    coded = BACKEND.coded(BACKEND.prepare(weights))

    rows = unpack.unpacked(coded, torch.float32, 33, 97)

    # Two levels of scales are multiplied by the codes in another order.
    torch.testing.assert_close(
        rows, weights.dequantize()[33:97], rtol=3e-7 if weights.scheme.second_level else 0, atol=0
    )


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's, where it interprets
@pytest.mark.parametrize("name", ["fp8-channel", "e5m2-channel", "int8-channel"])
def test_every_byte_is_decoded(name: str) -> None:
    weights = made(name, (256,), 16)
    weights.weight.view(torch.uint8).copy_(torch.arange(256)[:, None].expand(256, 16))
    scale = weights.weight_scale
    assert scale is not None
    scale.fill_(1)
    coded = BACKEND.coded(BACKEND.prepare(weights))

    values = unpack.unpacked(coded, torch.float32)
    kinds = {"e4m3"} if name == "fp8-channel" else {coded.kind}

    torch.testing.assert_close(values, weights.weight.float(), rtol=0, atol=0, equal_nan=True)
    for kind in kinds:  # where the hardware converts, the way for GPUs whose hardware does not
        other = coded._replace(kind=kind, codes=weights.weight.view(torch.uint8))
        torch.testing.assert_close(
            unpack.unpacked(other, torch.float32), weights.weight.float(), rtol=0, atol=0, equal_nan=True
        )


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
@pytest.mark.parametrize("name", ["mxfp4", "int4-group-32"])
def test_every_nibble_is_decoded_and_every_exponent(name: str) -> None:
    weights = made(name, (256,), 32)
    scale = weights.weight_scale
    assert scale is not None
    weights.weight.copy_(torch.arange(256, dtype=torch.uint8)[:, None].expand(256, 16))
    scale.copy_(torch.arange(256)[:, None] if name == "mxfp4" else torch.ones(256, 1))
    coded = BACKEND.coded(BACKEND.prepare(weights))

    values = unpack.unpacked(coded, torch.float32)

    torch.testing.assert_close(values, weights.dequantize(), rtol=0, atol=0, equal_nan=True)
    codes = decode_weight(weights.weight, weights.scheme.weight.dtype)
    assert codes[0x21].tolist() == [0.5, 1.0] * 16 if name == "mxfp4" else codes[0x21].tolist() == [1.0, 2.0] * 16


@pytest.mark.parametrize("name", ["fp8-channel", "fp8-odd-block", "nvfp4", "fp8-tensor", "int4-channel-two-levels"])
def test_new_weights_are_used_after_prepare_and_addresses_stay(name: str) -> None:
    weights, others = made(name, (100, 28), 320), made(name, (100, 28), 320, seed=5)
    x = tokens(3, 320, torch.bfloat16)
    first = BACKEND.prepare(weights)
    for mine, new in ((weights.weight, others.weight), (weights.weight_scale, others.weight_scale)):
        assert mine is not None
        assert new is not None
        mine.view(torch.uint8).copy_(new.view(torch.uint8))

    second = BACKEND.prepare(weights, first)

    assert torch.equal(BACKEND.apply(second, x), BACKEND.apply(BACKEND.prepare(others), x))
    for field in ("weight", "weight_scale", "row_factor", "grid_rows"):
        old, new = getattr(first, field), getattr(second, field)
        assert (old is None) == (new is None)
        assert old is None or old.data_ptr() == new.data_ptr()


@pytest.mark.parametrize("shape", [(320,), (0, 320), (2, 3, 320), (1, 2, 2, 320)])
def test_inputs_of_any_number_of_axes(shape: tuple[int, ...]) -> None:
    weights = made("fp8-channel", (64,), 320)
    x = tokens(max(1, torch.Size(shape).numel() // 320), 320, torch.bfloat16)[: torch.Size(shape).numel() // 320]

    y = BACKEND.apply(BACKEND.prepare(weights), x.reshape(shape))

    assert y.shape == (*shape[:-1], 64)


def test_inputs_whose_columns_are_apart() -> None:
    weights = made("nvfp4", (64,), 320)
    x = tokens(6, 641, torch.bfloat16)
    prepared = BACKEND.prepare(weights)

    for view in (x[:, 1:641:2], x[:, 1:321], x[::2, 3:323]):
        torch.testing.assert_close(BACKEND.apply(prepared, view), BACKEND.apply(prepared, view.clone()), rtol=0, atol=0)


@pytest.mark.parametrize(("large", "kibibytes"), [(True, 227), (False, 99)])
@pytest.mark.parametrize("name", ["nvfp4", "int4-group", "fp8-channel"])
@pytest.mark.parametrize("num_tokens", [1, 17, 33, 64])
def test_a_tile_fits_into_the_shared_memory(name: str, num_tokens: int, large: bool, kibibytes: int) -> None:
    """99 KiB on 8.6, 8.9 and 12.0; 163 on 8.0, whose registers take no larger tile."""
    products = pytest.importorskip("fp8load_kernels.gpu.weight_only")
    for num_rows in (128, 28672):
        coded = BACKEND.coded(BACKEND.prepare(made(name, (num_rows,), 512)))
        tile = products.tile_of(num_tokens, coded, torch.bfloat16, 108, large=large)

        stage = (tile.m * 2 + tile.n / coded.per_byte) * tile.k
        assert stage * tile.num_stages < kibibytes * 1024


@pytest.mark.parametrize(("asked", "shape", "device", "reason"), [
    (scheme("fp8-channel"), (64, 64), Device(kind="cpu"), "8.0"),
    (scheme("fp8-channel"), (64, 64), Device(kind="cuda", capability=(7, 5)), "8.0"),
    (scheme("nvfp4"), (64, 63), A100, "even K"),
    (scheme("fp8-channel", transforms=(Transform.ROTATION,)), (64, 64), A100, "rotation"),
    (scheme("fp8-channel", transforms=(Transform.PRE_QUANT_SCALE,)), (64, 64), A100, "pre_quant_scale"),
    (LinearScheme(weight=QuantSpec(dtype=DType.F6_E2M3, granularity=PerGroup(32), scale_dtype=DType.U8)), (64, 64),
     A100, "decodes"),
    (LinearScheme(weight=QuantSpec(dtype=DType.I4, granularity=PerGroup(48), scale_dtype=DType.F16)), (64, 96), A100,
     "power of two"),
    (scheme("mxfp4", storage=Storage(elements_per_byte=2, nibble_order=NibbleOrder.HIGH_FIRST)), (64, 64), A100,
     "high-first"),
])  # fmt: skip
def test_what_is_refused_and_why(asked: LinearScheme, shape: tuple[int, int], device: Device, reason: str) -> None:
    verdict = BACKEND.supports(asked, shape, device)

    assert isinstance(verdict, No)
    assert reason in verdict.reason


def test_a_scheme_that_quantizes_its_input_runs_and_says_that_it_is_not_quantized() -> None:
    given = QuantSpec(dtype=DType.F8_E4M3, granularity=PerGroup(128))

    assert BACKEND.supports(scheme("fp8-block"), (64, 64), A100) == Yes()
    verdict = BACKEND.supports(scheme("fp8-block", input=given), (64, 64), A100)
    assert isinstance(verdict, Yes)
    assert "16 bits" in verdict.note
