"""Dtype is part of the type, nothing is converted unseen, and nothing stays unfilled."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch

from fp8load.boxes import whole
from fp8load.dtypes import NAN_BYTES, DType
from fp8load.errors import LoadError, UnfilledSlotError
from fp8load.plan.layout import ParamLayout, SlotSource
from fp8load.runtime.dtypes import stored_shape, torch_dtype
from fp8load.runtime.layers import MergedColumnParallelLinear, QKVParallelLinear, ScaledLinear
from fp8load.runtime.parameters import (
    BiasParameter,
    BlockQuantScaleParameter,
    ChannelQuantScaleParameter,
    GlobalScaleParameter,
    GroupQuantScaleParameter,
    InputScaleParameter,
    ModelWeightParameter,
    PackedParameter,
    PerTensorScaleParameter,
    make_parameter,
    seal,
)
from fp8load.scheme import PerBlock, PerGroup, Role
from runtime.cases import BLOCK, CHANNEL, MXFP8, STATIC, part, scheme

QKV = "model.layers.0.self_attn.qkv_proj"


def lone(role: Role, dtype: DType, *shape: int) -> ParamLayout:
    """A layout of one slot."""
    return ParamLayout(role, dtype, shape, (SlotSource("whole", shape, whole(shape), whole(shape)),))


def filled_qkv(**options: object) -> ScaledLinear:
    layer = QKVParallelLinear(8, 4, 2, scheme=STATIC, bias=DType.BF16, name=QKV, **options)
    rng = np.random.default_rng(0)
    for slot in "qkv":
        one = part(rng, STATIC, 8, 8)
        for param in layer.parameters():
            param.weight_loader(param, one.of(param.param_layout.role), slot)
    return layer


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16, DType.F16, DType.F8_E4M3, DType.F8_E8M0, DType.U8])
@pytest.mark.parametrize("shape", [(3,), (4, 2), (0, 2), (2, 0)])
@pytest.mark.parametrize("given", [True, False])
def test_every_scale_dtype_starts_as_poison(dtype: DType, shape: tuple[int, ...], given: bool) -> None:
    storage = torch.zeros(shape, dtype=torch.float32).to(torch_dtype(dtype)) if given else None
    param = make_parameter(lone(Role.WEIGHT_SCALE, dtype, *shape), "m.weight_scale", scheme=BLOCK, storage=storage)
    memory = param.detach().reshape(-1).view(torch.uint8).numpy().tobytes()
    assert memory == NAN_BYTES[dtype] * param.numel()
    if storage is not None and storage.numel():
        assert param.data_ptr() == storage.data_ptr()
    assert not param.requires_grad
    param.mark_written("whole")
    if param.numel():
        with pytest.raises(UnfilledSlotError, match="nan at"):
            seal([param])


@pytest.mark.parametrize(
    ("role", "dtype", "layer", "cls"),
    [
        (Role.WEIGHT, DType.F8_E4M3, STATIC, ModelWeightParameter),
        (Role.WEIGHT, DType.F4, STATIC, PackedParameter),
        (Role.WEIGHT_SCALE, DType.F32, STATIC, PerTensorScaleParameter),
        (Role.WEIGHT_SCALE, DType.F32, CHANNEL, ChannelQuantScaleParameter),
        (Role.WEIGHT_SCALE, DType.F32, BLOCK, BlockQuantScaleParameter),
        (Role.WEIGHT_SCALE, DType.F8_E8M0, MXFP8, GroupQuantScaleParameter),
        (Role.INPUT_SCALE, DType.F32, STATIC, InputScaleParameter),
        (Role.WEIGHT_GLOBAL_SCALE, DType.F32, STATIC, GlobalScaleParameter),
        (Role.BIAS, DType.BF16, STATIC, BiasParameter),
    ],
)
def test_each_role_and_granularity_has_its_class(role, dtype, layer, cls) -> None:
    assert type(make_parameter(lone(role, dtype, 4, 4), "m", scheme=layer)) is cls


def test_a_weight_scale_without_a_scheme_has_no_type() -> None:
    with pytest.raises(ValueError, match="granularity"):
        make_parameter(lone(Role.WEIGHT_SCALE, DType.F32, 1), "m.weight_scale")


def test_storage_of_another_shape_or_dtype_is_refused() -> None:
    for wrong in (torch.empty(3, 3).to(torch.float8_e4m3fn), torch.empty(4, 4)):
        with pytest.raises(LoadError, match=r"m\.weight") as caught:
            make_parameter(lone(Role.WEIGHT, DType.F8_E4M3, 4, 4), "m.weight", storage=wrong)
        assert caught.value.expected == "F8_E4M3 [4, 4]"


ALLOWED = {
    (Role.WEIGHT, DType.F8_E4M3): {DType.F8_E4M3},
    (Role.WEIGHT, DType.F8_E5M2): {DType.F8_E5M2},
    (Role.WEIGHT, DType.F32): {DType.F32},
    (Role.WEIGHT, DType.BF16): {DType.BF16},
    (Role.WEIGHT_SCALE, DType.F32): {DType.F32, DType.BF16, DType.F16},
    (Role.INPUT_SCALE, DType.F32): {DType.F32, DType.BF16, DType.F16},
    (Role.WEIGHT_SCALE, DType.F8_E8M0): {DType.F8_E8M0, DType.U8},
    (Role.WEIGHT_SCALE, DType.U8): {DType.U8, DType.F8_E8M0},
    (Role.WEIGHT, DType.F4): {DType.U8, DType.I8},
    (Role.BIAS, DType.BF16): {DType.BF16},
    (Role.BIAS, DType.F16): {DType.F16},
    (Role.BIAS, DType.F32): {DType.F32, DType.BF16, DType.F16},
}
OFFERED = [DType.F32, DType.BF16, DType.F16, DType.F64, DType.F8_E4M3, DType.F8_E5M2, DType.F8_E8M0, DType.U8, DType.I8]


@pytest.mark.parametrize("offered", OFFERED)
@pytest.mark.parametrize(("role", "dtype"), ALLOWED)
def test_only_the_same_dtype_and_exact_widening_is_written(role: Role, dtype: DType, offered: DType) -> None:
    shape = (1,) if role is Role.INPUT_SCALE else (4, 4)
    param = make_parameter(lone(role, dtype, *shape), f"model.layers.7.{role}", scheme=MXFP8)
    tensor = torch.ones(stored_shape(dtype, shape)).to(torch_dtype(offered))
    before = param.detach().reshape(-1).view(torch.uint8).clone()
    if offered in ALLOWED[role, dtype]:
        param.weight_loader(param, tensor)
        assert param.written == {"whole": True}
        if tensor.element_size() == param.element_size():
            assert torch.equal(param.detach().view(torch.uint8), tensor.view(torch.uint8))
        return
    with pytest.raises(LoadError) as caught:
        param.weight_loader(param, tensor)
    assert f"model.layers.7.{role}" in str(caught.value)
    assert "whole" in str(caught.value)
    assert caught.value.expected.startswith(dtype)
    assert caught.value.got.startswith(offered)
    assert param.written == {"whole": False}
    assert torch.equal(param.detach().reshape(-1).view(torch.uint8), before)


def test_widening_keeps_every_bit() -> None:
    param = make_parameter(lone(Role.WEIGHT_SCALE, DType.F32, 1), "m.weight_scale", scheme=STATIC)
    for narrow in (torch.tensor([0.1], dtype=torch.bfloat16), torch.tensor([6e-8], dtype=torch.float16)):
        param.weight_loader(param, narrow)
        assert param.item() == narrow.item()


@pytest.mark.parametrize("shape", [(8,), (8, 9), (9, 8), (7, 8), (16, 8), (8, 8, 1), ()])
def test_a_weight_of_another_shape_is_refused_with_both_shapes(shape: tuple[int, ...]) -> None:
    layer = QKVParallelLinear(8, 4, 2, scheme=STATIC, name="a.qkv_proj")
    with pytest.raises(LoadError, match=r"a\.qkv_proj\.weight") as caught:
        layer.weight.weight_loader(layer.weight, torch.zeros(shape).to(torch.float8_e4m3fn), "k")
    assert "slot k" in str(caught.value)
    assert (caught.value.expected, caught.value.got) == ("[8, 8]", f"F8_E4M3 {list(shape)}")


@pytest.mark.parametrize("scale", [torch.ones(8), torch.ones(3, 2), torch.ones(0), torch.ones(1, 1, 1)])
def test_a_scale_is_never_broadcast(scale: torch.Tensor) -> None:
    layer = QKVParallelLinear(8, 4, 2, scheme=STATIC)
    with pytest.raises(LoadError):
        layer.weight_scale.weight_loader(layer.weight_scale, scale, "q")
    channel = QKVParallelLinear(8, 4, 2, scheme=CHANNEL)
    with pytest.raises(LoadError):
        channel.weight_scale.weight_loader(channel.weight_scale, torch.ones(1), "q")


def test_this_ranks_piece_instead_of_the_whole_tensor_is_explained() -> None:
    layer = MergedColumnParallelLinear(8, [8, 8], scheme=STATIC, tp_rank=1, tp_size=2)
    with pytest.raises(LoadError, match="whole tensor as it is on disk"):
        layer.weight.weight_loader(layer.weight, torch.zeros(4, 8).to(torch.float8_e4m3fn), 0)


@pytest.mark.parametrize("shard_id", ["o", 3, -1, (), (0, 0), ("q", 0), ("q", "x")])
def test_a_shard_id_that_names_no_slots_is_refused(shard_id) -> None:
    layer = QKVParallelLinear(8, 4, 2, scheme=STATIC, name="a.qkv_proj")
    with pytest.raises(LoadError, match=r"a\.qkv_proj\.weight_scale"):
        layer.weight_scale.weight_loader(layer.weight_scale, torch.tensor(1.0), shard_id)


def test_fused_blocks_that_two_slots_share_are_refused_and_named() -> None:
    layer = QKVParallelLinear(128, 64, 9, 3, scheme=BLOCK, name="a.qkv_proj")
    with pytest.raises(LoadError, match="fused on disk cannot be split") as caught:
        layer.weight_scale.weight_loader(layer.weight_scale, torch.ones(8, 1))
    assert "slot q" in caught.value.expected
    assert "576" in caught.value.got


def test_fused_blocks_are_refused_where_only_the_number_of_rows_fits() -> None:
    """Parts of 100 and 128 rows have two grid rows, and so have their 228 rows together: the blocks still differ."""
    layer = MergedColumnParallelLinear(4, [100, 128], scheme=scheme(PerBlock(128, 4)), name="m")
    with pytest.raises(LoadError, match="cannot be split"):
        layer.weight_scale.weight_loader(layer.weight_scale, torch.ones(2, 1))


def test_a_slot_that_is_left_out_is_named_for_every_parameter() -> None:
    whole_layer = filled_qkv().finalize()
    for param in whole_layer.parameters():
        for slot in "qkv":
            layer = filled_qkv()
            victim = dict(layer.named_parameters())[str(param.param_layout.role)]
            victim.written[slot] = False
            with pytest.raises(UnfilledSlotError) as caught:
                layer.finalize()
            assert caught.value.code == "FILL701"
            assert f"model.layers.0.self_attn.qkv_proj.{param.param_layout.role}[{slot}]" in str(caught.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), -1.0])
@pytest.mark.parametrize("role", [Role.WEIGHT_SCALE, Role.INPUT_SCALE])
@pytest.mark.parametrize("slot", [0, 1, 2])
def test_a_scale_that_is_no_finite_number_is_named(role: Role, slot: int, bad: float) -> None:
    layer = filled_qkv()
    param = dict(layer.named_parameters())[str(role)]
    param.weight_loader(param, torch.tensor(bad), slot)
    with pytest.raises(UnfilledSlotError, match=rf"{role}\[{'qkv'[slot]}\]"):
        layer.finalize()


def test_one_bad_block_among_many_is_found_with_its_place_in_the_slot() -> None:
    layer = MergedColumnParallelLinear(256, [256, 384], scheme=BLOCK, slots=["gate", "up"], name="mlp")
    scale = torch.rand(3, 2)
    scale[2, 1] = float("nan")
    layer.weight_scale.weight_loader(layer.weight_scale, torch.rand(2, 2), "gate")
    layer.weight_scale.weight_loader(layer.weight_scale, scale, "up")
    with pytest.raises(UnfilledSlotError, match=r"mlp\.weight_scale\[up\]") as caught:
        seal([layer.weight_scale])
    assert caught.value.got == "nan at [2, 1] of the slot"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float8_e8m0fnu])
def test_the_nan_byte_of_exponents_is_found(dtype: torch.dtype) -> None:
    stored = DType.U8 if dtype == torch.uint8 else DType.F8_E8M0
    layer = MergedColumnParallelLinear(64, [2, 2], scheme=scheme(PerGroup(32), stored))
    for slot, byte in ((0, 0), (1, 255)):
        exponents = torch.full((2, 2), byte, dtype=torch.uint8).view(dtype)
        layer.weight_scale.weight_loader(layer.weight_scale, exponents, slot)
    with pytest.raises(UnfilledSlotError, match=r"weight_scale\[1\]"):
        seal([layer.weight_scale])


def test_seal_names_the_tensor_that_should_have_filled_the_slot() -> None:
    layer = filled_qkv()
    layer.weight_scale.written["v"] = False
    sources = {(layer.weight_scale.full_name, "v"): "model.layers.0.self_attn.v_proj.weight_scale"}
    with pytest.raises(UnfilledSlotError, match=r"self_attn\.v_proj\.weight_scale"):
        seal(layer.parameters(), sources)


def test_packed_weights_are_cut_in_elements_and_stored_in_bytes() -> None:
    source = SlotSource("a", (2, 8), whole((2, 8))._replace(lo=(0, 4)), whole((2, 4)))
    layout = ParamLayout(Role.WEIGHT, DType.F4, (2, 4), (source,))
    param = make_parameter(layout, "m.weight")
    assert tuple(param.shape) == (2, 2)
    param.weight_loader(param, torch.arange(8, dtype=torch.uint8).reshape(2, 4))
    assert param.tolist() == [[2, 3], [6, 7]]


def test_copies_and_pickles_keep_class_ledger_and_bytes() -> None:
    layer = filled_qkv().finalize()
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for twin in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
        for (name, a), (_, b) in zip(layer.named_parameters(), twin.named_parameters(), strict=True):
            assert type(a) is type(b), name
            assert b.written == a.written
            assert b.data_ptr() != a.data_ptr()
            assert torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
        twin.weight_scale.weight_loader(twin.weight_scale, torch.tensor(3.0))
        assert not torch.equal(layer.finalize()(torch.ones(8)), twin.finalize()(torch.ones(8)))
