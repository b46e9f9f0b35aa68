"""Calls of few tokens that are made again from their launches: the same bits, for other inputs and other weights."""

from __future__ import annotations

import pytest
import torch

from fp8load.dtypes import DType
from fp8load.runtime.backend import LinearWeights, Part, Prepared
from fp8load.scheme import LinearScheme, PerBlock, PerChannel, PerGroup, PerToken, QuantSpec
from fp8load_kernels.blocks import few_tokens, quantized_groups
from fp8load_kernels.derive import channel_scale, grid_rows
from fp8load_kernels.few import by_groups, by_rows, few_by_rows

pytest.importorskip("fp8load_kernels.gpu.replay", reason="needs triton", exc_type=ImportError)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
E4M3 = DType.F8_E4M3
ROW = LinearScheme(
    weight=QuantSpec(dtype=E4M3, granularity=PerChannel(), scale_dtype=DType.F32),
    input=QuantSpec(dtype=E4M3, granularity=PerToken()),
)
BLOCK = LinearScheme(
    weight=QuantSpec(dtype=E4M3, granularity=PerBlock(128, 128), scale_dtype=DType.F32),
    input=QuantSpec(dtype=E4M3, granularity=PerGroup(128)),
)


def prepared(scheme: LinearScheme, rows: tuple[int, ...] = (64, 32), num_cols: int = 1024) -> Prepared:
    rng = torch.Generator().manual_seed(3)
    parts, at, grid = [], 0, 0
    for number, size in enumerate(rows):
        height = size if scheme is ROW else -(-size // 128)
        parts.append(Part(str(number), slice(at, at + size), slice(grid, grid + height)))
        at, grid = at + size, grid + height
    codes = (torch.randn(at, num_cols, generator=rng) * 30).to(torch.float8_e4m3fn).to(DEVICE)
    scale = (torch.rand(grid, 1 if scheme is ROW else num_cols // 128, generator=rng) + 0.1).to(DEVICE)
    weights = LinearWeights(scheme=scheme, shape=(at, num_cols), parts=tuple(parts), weight=codes, weight_scale=scale)
    if scheme is ROW:
        return Prepared(weights=weights, weight=codes.t(), weight_scale=channel_scale(weights))
    return Prepared(weights=weights, weight=codes, weight_scale=scale, grid_rows=grid_rows(weights))


def tokens(num_tokens: int, seed: int) -> torch.Tensor:
    return torch.randn(num_tokens, 1024, generator=torch.Generator().manual_seed(seed)).bfloat16().to(DEVICE)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("scheme", [ROW, BLOCK], ids=["rows", "blocks"])
def test_a_replayed_call_gives_what_the_call_gives(scheme: LinearScheme, biased: bool) -> None:
    again, anew = prepared(scheme), prepared(scheme)
    run = few_by_rows if scheme is ROW else by_groups
    bias = torch.linspace(-3, 3, 96, device=DEVICE).bfloat16() if biased else None
    for seed in range(3):
        for num_tokens in (1, 5):
            x = tokens(num_tokens, seed)
            anew.replays.clear()
            assert torch.equal(run(again, x, bias), run(anew, x, bias))
    assert len(again.replays) == 2


def test_a_replayed_call_computes_with_weights_that_were_written_since() -> None:
    made, x = prepared(ROW), tokens(2, 0)
    few_by_rows(made, x, None)
    made.weights.weight.view(torch.uint8).add_(1)
    assert made.weight_scale is not None
    made.weight_scale.mul_(3)

    y = few_by_rows(made, x, None)

    assert len(made.replays) == 1
    assert torch.equal(y, by_rows(made, x, None))


def test_sums_that_are_cut_into_pieces_are_put_together_again() -> None:
    made, x = prepared(BLOCK), tokens(1, 0)
    first = by_groups(made, x, None)
    (replay,) = made.replays.values()

    assert len(replay.launches) == 3  # quantize, multiply, add up
    assert torch.equal(by_groups(made, x, None), first)


def test_results_do_not_share_memory() -> None:
    made, x, other = prepared(ROW), tokens(2, 0), tokens(2, 1)
    few_by_rows(made, x, None)
    y = few_by_rows(made, x, None)
    kept = y.clone()
    few_by_rows(made, other, None)

    assert torch.equal(y, kept)


def test_inputs_of_another_stride_dtype_or_place_are_calls_of_their_own() -> None:
    made, wide = prepared(ROW), torch.randn(4, 1040, generator=torch.Generator().manual_seed(0)).bfloat16().to(DEVICE)
    wider = torch.cat([wide, wide[:, :16]], dim=1)
    same = (wide[:, :1024], wide[:, 8:1032])  # both begin at a multiple of 16 bytes
    for x in (*same, wide[:, 1:1025], wide[::2, :1024], wide[:, :1024].float(), wider[:, :1024]):
        for _ in range(2):
            assert torch.equal(few_by_rows(made, x, None), by_rows(made, x.contiguous(), None))
    assert len(made.replays) == 5


def test_no_tokens_are_not_noted() -> None:
    made = prepared(BLOCK, (128, 128))

    assert few_tokens(made, tokens(0, 0)).shape == (0, 256)
    assert made.replays == {}


@pytest.mark.parametrize("by_column", [False, True])
def test_a_replayed_quantization_writes_the_same_codes_and_scales_in_the_same_layout(by_column: bool) -> None:
    again, anew = prepared(BLOCK), prepared(BLOCK)
    for seed in range(3):
        for num_tokens in (70, 131):
            x = tokens(num_tokens, seed)
            anew.replays.clear()
            one, two = (quantized_groups(each, x, by_column=by_column) for each in (again, anew))
            assert torch.equal(one.codes.view(torch.uint8), two.codes.view(torch.uint8))
            assert torch.equal(one.scale, two.scale)
            assert one.scale.stride() == two.scale.stride() == ((1, -(-num_tokens // 4) * 4) if by_column else (8, 1))
    assert len(again.replays) == 2


def test_layouts_and_products_of_one_input_are_noted_apart() -> None:
    made, x = prepared(BLOCK), tokens(8, 0)
    for _ in range(2):
        assert quantized_groups(made, x).scale.stride() == (8, 1)
        assert quantized_groups(made, x, by_column=True).scale.stride() == (1, 8)
        assert by_groups(made, x, None).shape == (8, 96)
    assert len(made.replays) == 3
