"""Empty experts for engines: filled by `weight_loader` calls alone, for every tp and ep rank."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import fp8load
from fp8load.dtypes import DType
from fp8load.runtime.layers import FusedExperts
from fp8load.scheme import Granularity, LinearScheme, PerBlock, PerChannel, PerGroup, PerTensor, QuantSpec, Storage
from oracle.catalog import FOLDER, config_of

E, H, INNER = 4, 64, 96
GRANULARITIES = [PerTensor(), PerChannel(), PerBlock(16, 16), PerGroup(16)]


def scheme_of(granularity: Granularity) -> LinearScheme:
    return LinearScheme(
        weight=QuantSpec(dtype=DType.F8_E4M3, granularity=granularity, scale_dtype=DType.F32), storage=Storage()
    )


def scale_of(granularity: Granularity, rows: int, cols: int, rng: torch.Generator) -> torch.Tensor:
    match granularity:
        case PerTensor():
            shape: tuple[int, ...] = ()
        case PerChannel():
            shape = (rows, 1)
        case PerBlock(rows=bn, cols=bk):
            shape = (rows // bn, cols // bk)
        case _:
            shape = (rows, cols // 16)
    return torch.rand(shape, generator=rng) + 0.5


def checkpoint(granularity: Granularity) -> dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]:
    """(expert, part) -> codes and scale, as they are on disk."""
    rng = torch.Generator().manual_seed(0)
    shapes = {"w1": (INNER, H), "w3": (INNER, H), "w2": (H, INNER)}
    return {
        (expert, part): (
            torch.randn(shape, generator=rng).to(torch.float8_e4m3fn),
            scale_of(granularity, *shape, rng),
        )
        for expert in range(E)
        for part, shape in shapes.items()
    }


def filled(granularity: Granularity, **rank: int) -> FusedExperts:
    layer = FusedExperts(E, H, INNER, scheme=scheme_of(granularity), name="experts", **rank)
    for (expert, part), (weight, scale) in checkpoint(granularity).items():
        half = layer.w2 if part == "w2" else layer.w13
        half.weight.weight_loader(half.weight, weight, part, expert_id=expert)
        half.weight_scale.weight_loader(half.weight_scale, scale, part, expert_id=expert)
    return layer.finalize()


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize(("tp", "ep"), [(1, 1), (2, 1), (3, 1), (1, 2), (2, 4), (3, 2)])
def test_what_the_ranks_compute_adds_up_to_the_whole(granularity: Granularity, tp: int, ep: int) -> None:
    rng = torch.Generator().manual_seed(1)
    x, share = torch.randn(5, H, generator=rng), torch.rand(5, 2, generator=rng)
    ids = torch.randint(E, (5, 2), generator=rng)

    parts = [
        filled(granularity, tp_rank=t, tp_size=tp, ep_rank=e, ep_size=ep)(x, share, ids)
        for t in range(tp)
        for e in range(ep)
    ]

    torch.testing.assert_close(sum(parts), filled(granularity)(x, share, ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_one_tensor_for_all_experts_fills_them_all(granularity: Granularity) -> None:
    stored = checkpoint(granularity)
    layer = FusedExperts(E, H, INNER, scheme=scheme_of(granularity), name="experts", ep_rank=1, ep_size=2)
    for part in ("w1", "w3", "w2"):
        half = layer.w2 if part == "w2" else layer.w13
        weights = torch.stack([stored[expert, part][0].view(torch.uint8) for expert in range(E)])
        half.weight.weight_loader(half.weight, weights.view(torch.float8_e4m3fn), part)
        half.weight_scale.weight_loader(
            half.weight_scale, torch.stack([stored[expert, part][1] for expert in range(E)]), part
        )

    one_by_one = filled(granularity, ep_rank=1, ep_size=2).dequantize()

    for got, expected in zip(layer.finalize().dequantize(), one_by_one, strict=True):
        assert torch.equal(got, expected)


def test_one_scale_for_all_experts_fills_every_slot() -> None:
    layer = FusedExperts(E, H, INNER, scheme=scheme_of(PerTensor()), name="experts")

    layer.w13.weight_scale.weight_loader(layer.w13.weight_scale, torch.tensor(2.0))

    assert torch.equal(layer.w13.weight_scale.detach(), torch.full((E, 2), 2.0))
    assert all(layer.w13.weight_scale.written.values())


def test_experts_that_were_moved_run_from_where_they_are_now() -> None:
    layer = filled(PerChannel())
    x, share, ids = torch.ones(1, H), torch.ones(1, 1), torch.tensor([[2]])
    assert layer(x, share, ids).abs().sum() > 0

    layer._apply(torch.clone)
    layer.w2.weight.detach().view(torch.uint8).zero_()

    assert layer(x, share, ids).abs().sum() == 0


def test_a_reload_of_one_expert_is_seen_and_keeps_the_address() -> None:
    layer = filled(PerChannel())
    x, share, ids = torch.ones(1, H), torch.ones(1, 1), torch.tensor([[2]])
    before, address = layer(x, share, ids), layer.w13.weight.data_ptr()

    layer.w13.weight.weight_loader(layer.w13.weight, torch.zeros(INNER, H).to(torch.float8_e4m3fn), "up", expert_id=2)

    assert not torch.equal(layer(x, share, ids), before)
    assert torch.equal(layer(x, share, ids), torch.zeros(1, H))
    assert layer.w13.weight.data_ptr() == address


@pytest.mark.parametrize("missing", ["w1", "w2"])
def test_an_expert_that_was_forgotten_is_named(missing: str) -> None:
    layer = FusedExperts(E, H, INNER, scheme=scheme_of(PerChannel()), name="experts")
    for (expert, part), (weight, scale) in checkpoint(PerChannel()).items():
        half = layer.w2 if part == "w2" else layer.w13
        half.weight.weight_loader(half.weight, weight, part, expert_id=expert)
        if (expert, part) != (3, missing):
            half.weight_scale.weight_loader(half.weight_scale, scale, part, expert_id=expert)

    slot = {"w1": r"w13\.weight_scale\[3\.gate\]", "w2": r"w2\.weight_scale\[3\.down\]"}[missing]
    with pytest.raises(fp8load.Fp8LoadError, match=slot):
        layer.finalize()


def test_experts_without_a_gate_have_one_part() -> None:
    layer = FusedExperts(E, H, INNER, scheme=scheme_of(PerTensor()), name="experts", gated=False, activation="relu2")

    assert layer.w13.shape == (E, INNER, H)
    assert [source.slot for source in layer.w13.weight.param_layout.sources] == [f"{e}.up" for e in range(E)]


@pytest.mark.parametrize(
    ("rank", "works"), [({"ep_size": 3}, "1, 2, 4"), ({"tp_size": 5}, "1, 2, 3, 4, 6"), ({"tp_rank": 2}, "tp_rank")]
)
def test_a_split_that_does_not_work_names_those_that_do(rank: dict[str, int], works: str) -> None:
    with pytest.raises(fp8load.Fp8LoadError, match=works):
        FusedExperts(E, H, INNER, scheme=scheme_of(PerTensor()), name="experts", **rank)


@pytest.mark.parametrize("shape", [(INNER, H + 1), (INNER + 1, H), (2 * INNER, H), (E, INNER, H)])
def test_a_tensor_of_another_shape_is_refused_and_nothing_is_written(shape: tuple[int, ...]) -> None:
    layer = FusedExperts(E, H, INNER, scheme=scheme_of(PerTensor()), name="experts")

    with pytest.raises(fp8load.Fp8LoadError, match="FILL703"):
        layer.w13.weight.weight_loader(
            layer.w13.weight, torch.zeros(shape).to(torch.float8_e4m3fn), "gate", expert_id=1
        )

    assert not any(layer.w13.weight.written.values())


def test_an_expert_id_for_a_layer_without_experts_is_refused() -> None:
    from fp8load.runtime.layers import ColumnParallelLinear

    layer = ColumnParallelLinear(H, INNER, scheme=scheme_of(PerTensor()), name="up_proj")

    with pytest.raises(fp8load.Fp8LoadError, match="FILL704"):
        layer.weight.weight_loader(layer.weight, torch.zeros(INNER, H).to(torch.float8_e4m3fn), expert_id=0)


def test_a_stack_can_be_saved_and_loaded_as_a_state_dict() -> None:
    layer, empty = (
        filled(PerBlock(16, 16)),
        FusedExperts(E, H, INNER, scheme=scheme_of(PerBlock(16, 16)), name="experts"),
    )

    empty.load_state_dict(layer.state_dict())

    for got, expected in zip(empty.finalize().dequantize(), layer.dequantize(), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("activation", ["silu", "limited-silu:0.5", "clamped-swiglu:0.5", "gelu", "relu2"])
def test_what_stands_between_the_products(activation: str) -> None:
    gated = activation != "relu2"
    layer = FusedExperts(1, H, INNER, scheme=scheme_of(PerTensor()), name="e", gated=gated, activation=activation)
    one = torch.eye(H).to(torch.float8_e4m3fn)
    parts = {"gate": 1.0, "up": 0.5} if gated else {"up": 1.0}
    for part, scale in parts.items():
        rows = torch.cat([one, one[: INNER - H]])
        layer.w13.weight.weight_loader(layer.w13.weight, rows, part, expert_id=0)
        layer.w13.weight_scale.weight_loader(layer.w13.weight_scale, torch.tensor(scale), part, expert_id=0)
    back = torch.zeros(H, INNER)
    back[:, :H] = torch.eye(H)
    layer.w2.weight.weight_loader(layer.w2.weight, back.to(torch.float8_e4m3fn), "down", expert_id=0)
    layer.w2.weight_scale.weight_loader(layer.w2.weight_scale, torch.tensor(1.0), "down", expert_id=0)
    x = torch.linspace(-3, 3, H)

    y = layer(x[None], torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64))[0]

    gate, up = x, x / 2
    held = gate.clamp(max=0.5), up.clamp(-0.5, 0.5)
    expected = {
        "silu": torch.nn.functional.silu(gate) * up,
        "limited-silu:0.5": torch.nn.functional.silu(held[0]) * held[1],
        "clamped-swiglu:0.5": held[0] * torch.sigmoid(1.702 * held[0]) * (held[1] + 1),
        "gelu": torch.nn.functional.gelu(gate, approximate="tanh") * up,
        "relu2": x.relu() ** 2,
    }[activation]
    torch.testing.assert_close(y, expected)


def test_an_activation_that_is_not_known_is_refused_by_name() -> None:
    layer = filled(PerTensor())
    layer.activation = "tanh"

    with pytest.raises(fp8load.Fp8LoadError, match="tanh"):
        layer(torch.ones(1, H), torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64))


def test_the_limit_of_an_activation_is_the_configurations(tmp_path: Path) -> None:
    folder = FOLDER / "hf-gptoss-mxfp4"
    for path in folder.glob("*"):
        if path.is_file():
            shutil.copyfile(path, tmp_path / path.name)
    config = {**config_of(folder), "swiglu_limit": 5.5}
    (tmp_path / "config.json").write_text(json.dumps(config))

    assert fp8load.open(tmp_path).plan().layers["model.layers.0.mlp.experts.w13"].activation == "clamped-swiglu:5.5"
    assert fp8load.open(folder).plan().layers["model.layers.0.mlp.experts.w13"].activation == "clamped-swiglu:7.0"
