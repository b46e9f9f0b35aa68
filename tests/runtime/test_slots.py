"""Laws of loading: however a tensor comes, the parameter is the same, and it is what numpy says it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp8load.dtypes import DType
from fp8load.errors import LoadError, PlanError
from fp8load.runtime.layers import (
    ColumnParallelLinear,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
    ScaledLinear,
)
from fp8load.scheme import LinearScheme, PerBlock, PerChannel, PerGroup, PerTensor, Role
from runtime.cases import CHANNEL, STATIC, Part, dequantized, fused, part, scheme

GRANULARITIES = st.one_of(
    st.just(PerTensor()), st.just(PerChannel()),
    st.builds(PerBlock, st.sampled_from([2, 3, 4, 8]), st.sampled_from([2, 4])),
    st.builds(PerGroup, st.sampled_from([2, 4])),
)  # fmt: skip
SCHEMES = st.builds(scheme, GRANULARITIES, st.sampled_from([DType.F32, DType.BF16, DType.U8, DType.F8_E8M0]))
SEEDS = st.integers(0, 2**32 - 1)


def fill(layer: ScaledLinear, parts: dict[str | int | tuple | None, Part]) -> ScaledLinear:
    for param in layer.parameters():
        for shard_id, one in parts.items():
            param.weight_loader(param, one.of(param.param_layout.role), shard_id)
    return layer


def assert_same(a: ScaledLinear, b: ScaledLinear) -> None:
    for (name, one), (_, two) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        assert torch.equal(one.reshape(-1).view(torch.uint8), two.reshape(-1).view(torch.uint8)), name
        assert all(one.written.values()) and all(two.written.values()), name


def splittable(layer: LinearScheme, *num_rows: int) -> bool:
    """Whether a scale of all these parts, fused on disk, can be cut."""
    granularity = layer.weight.granularity
    ends = np.cumsum(num_rows)[:-1]
    return not isinstance(granularity, PerBlock) or all(end % granularity.rows == 0 for end in ends)


@settings(max_examples=60, deadline=None)
@given(SCHEMES, st.integers(1, 4), st.integers(1, 3), st.integers(1, 8), st.integers(1, 9), SEEDS, st.data())
def test_qkv_is_the_same_from_parts_from_tuples_and_from_one_tensor(
    layer: LinearScheme, kv_heads: int, group: int, head: int, num_cols: int, seed: int, data: st.DataObject
) -> None:
    heads = kv_heads * group
    sizes = [n for n in range(1, 13) if heads % n == 0 and max(n, kv_heads) % min(n, kv_heads) == 0]
    tp_size = data.draw(st.sampled_from(sizes))
    tp_rank = data.draw(st.integers(0, tp_size - 1))
    rng = np.random.default_rng(seed)
    rows = {"q": heads * head, "k": kv_heads * head, "v": kv_heads * head}
    parts = {slot: part(rng, layer, n, num_cols) for slot, n in rows.items()}

    def empty() -> QKVParallelLinear:
        return QKVParallelLinear(num_cols, head, heads, kv_heads, scheme=layer, tp_rank=tp_rank, tp_size=tp_size,
                                 bias=DType.BF16, name="m")  # fmt: skip

    share = {"q": heads * head // tp_size, "kv": max(kv_heads // tp_size, 1) * head}
    granularity = layer.weight.granularity
    if isinstance(granularity, PerBlock) and tp_size > 1:
        cuts = {share["q"] * r for r in range(1, tp_size)} | {share["kv"] * r for r in range(1, min(tp_size, kv_heads))}
        if any(cut % granularity.rows for cut in cuts):
            with pytest.raises(PlanError, match="tp size that works"):
                [QKVParallelLinear(num_cols, head, heads, kv_heads, scheme=layer, tp_rank=r, tp_size=tp_size)
                 for r in range(tp_size)]  # fmt: skip
            return
    one_by_one = fill(empty(), parts).finalize()
    for order in (("q", "k", "v"), ("v", "q"), ("k", "v"), (2, 0, 1)):
        names = [slot if isinstance(slot, str) else "qkv"[slot] for slot in order]
        if splittable(layer, *(rows[name] for name in names)):
            rest = {slot: one for slot, one in parts.items() if slot not in names}
            assert_same(fill(empty(), {tuple(order): fused([parts[name] for name in names])} | rest), one_by_one)
    everything = fused(list(parts.values()))
    if splittable(layer, *rows.values()):
        assert_same(fill(empty(), {None: everything}), one_by_one)
    else:
        with pytest.raises(LoadError, match=r"m\.weight_scale") as caught:
            fill(empty(), {None: everything})
        assert caught.value.code in ("FILL705", "FILL703")

    first_kv = tp_rank * kv_heads // tp_size * head
    begins = {"q": tp_rank * share["q"], "k": first_kv, "v": first_kv}
    held = {"q": share["q"], "k": share["kv"], "v": share["kv"]}
    expected = np.concatenate([
        dequantized(one, granularity)[begins[slot] : begins[slot] + held[slot]] for slot, one in parts.items()
    ])  # fmt: skip
    assert np.array_equal(one_by_one.dequantize().numpy().view(np.uint32), expected.view(np.uint32))


@settings(max_examples=40, deadline=None)
@given(SCHEMES, st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 4), st.integers(1, 9), SEEDS)
def test_over_all_ranks_a_column_parallel_layer_is_the_whole_one(
    layer: LinearScheme, units: list[int], tp_size: int, num_cols: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    granularity = layer.weight.granularity
    unit = granularity.rows if isinstance(granularity, PerBlock) else 1
    sizes = [unit * tp_size * n for n in units]
    parts = {i: part(rng, layer, n, num_cols) for i, n in enumerate(sizes)}
    ranks = [fill(MergedColumnParallelLinear(num_cols, sizes, scheme=layer, tp_rank=r, tp_size=tp_size), parts)
             for r in range(tp_size)]  # fmt: skip
    for i, one in parts.items():
        begin, rows = sum(sizes[:i]) // tp_size, sizes[i] // tp_size
        union = torch.cat([rank.dequantize()[begin : begin + rows] for rank in ranks])
        assert np.array_equal(union.numpy(), dequantized(one, granularity))


@settings(max_examples=40, deadline=None)
@given(SCHEMES, st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), SEEDS)
def test_over_all_ranks_a_row_parallel_layer_is_the_whole_one(
    layer: LinearScheme, num_rows: int, units: int, tp_size: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    granularity = layer.weight.granularity
    num_cols = units * tp_size * (granularity.cols if isinstance(granularity, PerBlock | PerGroup) else 1)
    one = part(rng, layer, num_rows, num_cols)
    ranks = [
        RowParallelLinear(num_cols, num_rows, scheme=layer, tp_rank=r, tp_size=tp_size, bias=DType.BF16)
        for r in range(tp_size)
    ]
    for rank in ranks:
        fill(rank, {None: one})
    union = torch.cat([rank.dequantize() for rank in ranks], dim=1)
    assert np.array_equal(union.numpy(), dequantized(one, granularity))
    assert [rank.bias is not None for rank in ranks] == [rank == 0 for rank in range(tp_size)]


def test_nine_and_three_heads_of_64_keep_both_scale_rows_of_k() -> None:
    layer = scheme(PerBlock(128, 128))
    rng = np.random.default_rng(0)
    parts = {"q": part(rng, layer, 576, 256), "k": part(rng, layer, 192, 256), "v": part(rng, layer, 192, 256)}
    filled = fill(QKVParallelLinear(256, 64, 9, 3, scheme=layer), parts)
    assert filled.weight_scale is not None
    assert tuple(filled.weight_scale.shape) == (5 + 2 + 2, 2)
    assert torch.equal(filled.weight_scale[5:7], parts["k"].scale)
    assert torch.equal(filled.weight_scale[7:9], parts["v"].scale)


def test_one_scale_that_is_fused_on_disk_fills_every_slot_or_exactly_the_named_ones() -> None:
    filled = QKVParallelLinear(8, 4, 2, scheme=STATIC)
    assert filled.weight_scale is not None
    for dialect in (torch.tensor(0.5), torch.tensor([0.5]), torch.tensor([[0.5]])):
        filled.weight_scale.weight_loader(filled.weight_scale, dialect)
        assert filled.weight_scale.tolist() == [0.5, 0.5, 0.5]
    filled.weight_scale.weight_loader(filled.weight_scale, torch.tensor(0.25), ("k", 2))
    assert filled.weight_scale.tolist() == [0.5, 0.25, 0.25]
    filled.weight_scale.weight_loader(filled.weight_scale, torch.tensor([1.0, 2.0]), (2, 0))
    assert filled.weight_scale.tolist() == [2.0, 0.25, 1.0]


@pytest.mark.parametrize("dialect", [(6,), (6, 1), (1, 6)])
def test_per_channel_scales_are_read_in_each_dialect(dialect: tuple[int, ...]) -> None:
    filled = ColumnParallelLinear(4, 6, scheme=CHANNEL)
    assert filled.weight_scale is not None
    filled.weight_scale.weight_loader(filled.weight_scale, torch.arange(6.0).reshape(dialect))
    assert filled.weight_scale.tolist() == [[float(i)] for i in range(6)]


def test_four_axes_of_block_scales_are_read_as_two() -> None:
    filled = ColumnParallelLinear(6, 4, scheme=scheme(PerBlock(2, 2)))
    assert filled.weight_scale is not None
    filled.weight_scale.weight_loader(filled.weight_scale, torch.arange(6.0).reshape(2, 1, 3, 1))
    assert filled.weight_scale.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


def test_named_methods_of_the_field_load_like_weight_loader() -> None:
    rng = np.random.default_rng(1)
    one = part(rng, CHANNEL, 4, 4)
    qkv = QKVParallelLinear(4, 4, 1, scheme=CHANNEL)
    for slot in "qkv":
        qkv.weight.load_qkv_weight(one.weight, slot)
    merged = MergedColumnParallelLinear(4, [4, 4, 4], scheme=CHANNEL)
    for i in range(3):
        merged.weight.load_merged_column_weight(one.weight, i)
    column, row = ColumnParallelLinear(4, 4, scheme=CHANNEL), RowParallelLinear(4, 4, scheme=CHANNEL)
    column.weight.load_column_parallel_weight(one.weight)
    row.weight.load_row_parallel_weight(one.weight)
    assert torch.equal(qkv.weight.float(), merged.weight.float())
    assert torch.equal(column.weight.float(), row.weight.float())
    assert Role.WEIGHT is column.weight.param_layout.role
