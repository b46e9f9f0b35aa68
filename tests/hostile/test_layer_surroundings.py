"""What surrounds a layer in a real program: state dicts, autocast, default dtypes and devices, lists for shard ids."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import fp8load
from fp8load.dtypes import DType
from fp8load.errors import LoadError, PlanError, UsageError
from fp8load.runtime.layers import QKVParallelLinear
from fp8load.scheme import LinearScheme, PerBlock, PerGroup, PerTensor, PerToken, QuantSpec
from oracle.catalog import FOLDER

ROWS = {"q": 32, "k": 16, "v": 16}
K = 32


def _scheme(weight, activation, *, static=False) -> LinearScheme:
    scale = DType.F32 if static else None
    return LinearScheme(
        weight=QuantSpec(dtype=DType.F8_E4M3, granularity=weight, scale_dtype=DType.F32),
        input=QuantSpec(dtype=DType.F8_E4M3, granularity=activation, scale_dtype=scale),
        input_static=static,
    )


SCHEMES = {
    "per tensor, static": _scheme(PerTensor(), PerTensor(), static=True),
    "per tensor, per token": _scheme(PerTensor(), PerToken()),
    "blocks": _scheme(PerBlock(16, 16), PerGroup(16)),
}


def _empty(scheme: LinearScheme, **options) -> QKVParallelLinear:
    return QKVParallelLinear(K, 16, 2, 1, scheme=scheme, name="layer.qkv_proj", **options)


def _filled(scheme: LinearScheme, seed: int, **options) -> QKVParallelLinear:
    generator = torch.Generator().manual_seed(seed)
    layer = _empty(scheme, **options)
    for slot, rows in ROWS.items():
        codes = torch.randn(rows, K, generator=generator, dtype=torch.float32).to(torch.float8_e4m3fn)
        blocks = (rows // 16, 2) if isinstance(scheme.weight.granularity, PerBlock) else (1,)
        scale = torch.rand(blocks, generator=generator, dtype=torch.float32) + 0.1
        layer.weight.weight_loader(layer.weight, codes, slot)
        layer.weight_scale.weight_loader(layer.weight_scale, scale, slot)
        if layer.input_scale is not None:
            layer.input_scale.weight_loader(layer.input_scale, scale.reshape(-1)[:1] / 10, slot)
    return layer.finalize()


@pytest.fixture
def x_MK() -> torch.Tensor:
    return torch.randn(5, K, generator=torch.Generator().manual_seed(7), dtype=torch.float32)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("assign", [False, True])
def test_a_state_dict_refreshes_what_was_derived_from_the_old_weights(scheme, assign, x_MK):
    served, other = _filled(scheme, 0), _filled(scheme, 1)
    served(x_MK)
    address = served.weight.data_ptr()

    served.load_state_dict(other.state_dict(), assign=assign)

    assert torch.equal(served(x_MK), other(x_MK))
    assert served.weight.data_ptr() == address


def test_a_state_dict_fills_an_empty_layer(x_MK):
    empty, other = _empty(SCHEMES["blocks"]), _filled(SCHEMES["blocks"], 1)

    empty.load_state_dict(other.state_dict())

    assert torch.equal(empty.finalize()(x_MK), other(x_MK))


def test_a_state_dict_in_another_dtype_is_refused_and_changes_nothing(x_MK):
    layer = _filled(SCHEMES["per tensor, per token"], 0)
    before, wrong = layer(x_MK), _filled(SCHEMES["per tensor, per token"], 1).state_dict()
    wrong["weight"] = wrong["weight"].to(torch.bfloat16)

    with pytest.raises(LoadError, match=r"layer\.qkv_proj\.weight"):
        layer.load_state_dict(wrong)

    assert torch.equal(layer(x_MK), before)


@pytest.mark.parametrize("backend", [None, "reference", "emulated"])
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_autocast_changes_no_number(scheme, backend, x_MK):
    layer = _filled(scheme, 0, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        inside = layer(x_MK)

    assert torch.equal(inside, layer(x_MK))


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_a_default_dtype_of_16_bits_changes_no_number(scheme, x_MK):
    expected = _filled(scheme, 0)(x_MK)
    torch.set_default_dtype(torch.bfloat16)
    try:
        got = _filled(scheme, 0)(x_MK)
    finally:
        torch.set_default_dtype(torch.float32)

    assert torch.equal(got, expected)


def test_a_list_is_a_shard_id_like_a_tuple():
    layer = _empty(SCHEMES["per tensor, per token"])
    layer.weight.weight_loader(layer.weight, torch.zeros(32, K).to(torch.float8_e4m3fn), ["k", "v"])

    assert layer.weight.written == {"q": False, "k": True, "v": True}


@pytest.mark.parametrize("shard_id", [{}, {"q": 0}, ["q", []], 1.5, b"q"])
def test_what_is_no_shard_id_is_refused_by_name(shard_id):
    layer = _empty(SCHEMES["per tensor, per token"])
    with pytest.raises(LoadError, match=r"layer\.qkv_proj\.weight"):
        layer.weight.weight_loader(layer.weight, torch.zeros(32, K).to(torch.float8_e4m3fn), shard_id)


def test_a_state_dict_of_another_shape_does_not_count_as_written():
    layer, wrong = _empty(SCHEMES["blocks"]), _filled(SCHEMES["blocks"], 1).state_dict()
    wrong["weight"] = wrong["weight"][1:]

    with pytest.raises(RuntimeError, match="weight"):
        layer.load_state_dict(wrong)

    assert not any(layer.weight.written.values())


@pytest.mark.parametrize("operand", ["weight", "input"])
def test_a_scheme_that_forgets_a_stored_scale_is_refused_before_a_layer_exists(operand):
    scheme = SCHEMES["per tensor, static"]
    forgetful = replace(scheme, **{operand: replace(getattr(scheme, operand), scale_dtype=None)})

    with pytest.raises(PlanError, match=r"layer\.qkv_proj"):
        _empty(forgetful)


@pytest.mark.parametrize("rank", [{"tp_rank": 2, "tp_size": 2}, {"tp_rank": -1}, {"tp_size": 0}])
def test_a_rank_that_does_not_exist_is_refused_by_layer(rank):
    with pytest.raises(UsageError, match=r"layer\.qkv_proj"):
        _empty(SCHEMES["blocks"], **rank)


def test_a_layer_keeps_its_data_and_its_slots_when_it_is_sent_to_the_meta_device(x_MK):
    layer = _filled(SCHEMES["blocks"], 0)
    before = layer(x_MK)

    with pytest.raises(UsageError, match=r"layer\.qkv_proj"):
        layer.to("meta")
    assert torch.equal(layer(x_MK), before)


def test_a_default_device_does_not_change_where_a_model_is_loaded():
    with torch.device("meta"):
        model = fp8load.load(FOLDER / "ct-llama128-fp8-static")

    assert all(tensor.device.type == "cpu" for tensor in model.tensors.values())
    assert all(torch.isfinite(layer.dequantize()).all() for layer in model.values())


def test_a_device_that_holds_no_data_is_refused_instead_of_sealed():
    plan = fp8load.open(FOLDER / "ct-llama128-fp8-static").plan()
    with pytest.raises(UsageError, match="meta"):
        plan.load(device="meta")
