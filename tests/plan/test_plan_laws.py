"""Laws of plans: whatever the sizes, a plan is proved, all ranks together hold everything, and refusals are right."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fp8load.errors import Fp8LoadError, PlanError
from fp8load.plan.plan import Rank
from fp8load.plan.prove import prove_ranks
from sketch import Llama


@st.composite
def llamas(draw: st.DrawFn) -> Llama:
    """Models of odd sizes in every granularity, fused on disk or not."""
    kv_heads = draw(st.integers(1, 4))
    scale: Any = draw(st.sampled_from(["tensor", "channel", (8, 8), (4, 16), (16, 4), (1, 32)]))
    return Llama(
        hidden=draw(st.integers(1, 12)) * 4,
        intermediate=draw(st.integers(1, 40)),
        heads=kv_heads * draw(st.integers(1, 4)),
        kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([4, 8, 12])),
        vocab=draw(st.integers(1, 20)),
        layers=draw(st.integers(1, 2)),
        scale=scale,
        static=scale in ("tensor", "channel") and draw(st.booleans()),
        fused=draw(st.booleans()),
        bias=draw(st.booleans()),
        quantized=draw(st.booleans()),
    )


def without_phi_bias(llama: Llama) -> Llama:
    """Phi-3 has no biases."""
    return llama.but(bias=False) if llama.fused else llama


@settings(deadline=None, max_examples=60)
@given(llamas().map(without_phi_bias), st.integers(1, 8))
def test_all_ranks_together_hold_every_element_equally_often(llama: Llama, tp_size: int) -> None:
    checkpoint = llama.open()
    assume(tp_size in checkpoint.legal_tp())

    plans = [checkpoint.plan(tp_rank=rank, tp_size=tp_size) for rank in range(tp_size)]

    prove_ranks([plan.layout for plan in plans], checkpoint.index.tensors)


@settings(deadline=None, max_examples=60)
@given(llamas().map(without_phi_bias), st.integers(2, 8))
def test_a_size_is_called_legal_exactly_when_every_rank_has_a_plan(llama: Llama, tp_size: int) -> None:
    checkpoint = llama.open()

    try:
        for rank in range(tp_size):
            checkpoint.plan(tp_rank=rank, tp_size=tp_size)
        planned = True
    except PlanError:
        planned = False

    assert planned == (tp_size in checkpoint.legal_tp())


@settings(deadline=None, max_examples=40)
@given(llamas().map(without_phi_bias))
def test_one_rank_holds_every_byte_once_and_scales_widened(llama: Llama) -> None:
    checkpoint = llama.open()

    plan = checkpoint.plan()

    assert plan.nbytes_read == checkpoint.index.nbytes
    assert {copy.source for copy in plan.copies} == set(checkpoint.index.tensors)
    assert not plan.skips


def test_a_refused_size_names_a_member_and_the_sizes_that_work() -> None:
    checkpoint = Llama(heads=6, kv_heads=2, head_dim=24, hidden=144, scale=(128, 128), intermediate=296).open()

    with pytest.raises(PlanError) as caught:
        checkpoint.plan(tp_rank=1, tp_size=2)

    assert "model.layers.0.self_attn.q_proj.weight" in str(caught.value)
    assert "inside a block of 128" in caught.value.got
    assert caught.value.hint == "tp sizes that work for every layer: 1"


def test_kv_heads_are_repeated_where_ranks_outnumber_them() -> None:
    checkpoint = Llama(heads=8, kv_heads=2, head_dim=16).open()

    rows = []
    for rank in range(8):
        plan = checkpoint.plan(tp_rank=rank, tp_size=8)
        copy = next(plan.copies_of("model.layers.0.self_attn.k_proj.weight"))
        rows.append(copy.src.lo[0])

    assert rows == [0, 0, 0, 0, 16, 16, 16, 16]


def test_nine_and_three_heads_of_64_rows_keep_a_grid_for_each_member() -> None:
    """9 x 64 rows are 4.5 blocks: k and v begin a grid row of their own, nobody overwrites a neighbour's."""
    checkpoint = Llama(heads=9, kv_heads=3, head_dim=64, hidden=576, scale=(128, 128), intermediate=1536).open()

    scale = checkpoint.plan().params["model.layers.0.self_attn.qkv_proj.weight_scale"]

    assert scale.shape == (5 + 2 + 2, 5)
    assert [(slot.name, slot.box.lo[0], slot.box.hi[0]) for slot in scale.slots] == [
        ("q", 0, 5),
        ("k", 5, 7),
        ("v", 7, 9),
    ]


def test_fused_on_disk_one_scalar_fills_every_slot() -> None:
    plan = Llama(fused=True, scale="tensor", static=True).open().plan()

    for role in ("weight_scale", "input_scale"):
        copies = list(plan.copies_of(f"model.layers.0.self_attn.qkv_proj.{role}"))
        assert [copy.slot for copy in copies] == ["q", "k", "v"]
        assert plan.params[f"model.layers.0.self_attn.qkv_proj.{role}"].shape == (3,)


def test_fused_on_disk_blocks_that_run_across_members_stay_together_and_refuse_to_split() -> None:
    checkpoint = Llama(
        fused=True, scale=(128, 128), heads=3, kv_heads=3, head_dim=64, hidden=192, intermediate=64
    ).open()

    layer = checkpoint.plan().layers["model.layers.0.self_attn.qkv_proj"]

    assert layer.parts == (("q+k+v", 576),)
    with pytest.raises(PlanError):
        checkpoint.plan(tp_size=3)


def test_a_row_parallel_bias_is_loaded_by_rank_0_alone() -> None:
    checkpoint = Llama(bias=True).open()
    name = "model.layers.0.self_attn.o_proj.bias"

    first, second = (checkpoint.plan(tp_rank=rank, tp_size=2) for rank in range(2))

    assert list(first.copies_of(name))
    assert next(skip for skip in second.skips if skip.source == name).reason.startswith("a row-parallel bias")


def test_vocabulary_rows_are_shared_out_even_where_they_do_not_divide() -> None:
    checkpoint = Llama(vocab=50, heads=8, kv_heads=8, head_dim=8).open()

    rows = [checkpoint.plan(tp_rank=rank, tp_size=8).params["lm_head.weight"].shape[0] for rank in range(8)]

    assert rows == [7, 7, 7, 7, 7, 7, 7, 1]


def test_explain_follows_a_tensor_to_its_slot() -> None:
    plan = Llama(scale=(16, 16), intermediate=96).open().plan(tp_rank=1, tp_size=2)

    text = plan.explain("model.layers.1.mlp.up_proj.weight_scale_inv")

    assert "gate_up_proj, slot up" in text
    assert "disk [3:6, 0:4]  ->  model.layers.1.mlp.gate_up_proj.weight_scale [3:6, 0:4]" in text
    with pytest.raises(Fp8LoadError, match=r"no such tensor"):
        plan.explain("model.layers.1.mlp.up_proj.weights")


@pytest.mark.parametrize(("tp_rank", "tp_size"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_outside_its_size_is_refused(tp_rank: int, tp_size: int) -> None:
    with pytest.raises(ValueError, match="tp_rank"):
        Rank(tp_rank=tp_rank, tp_size=tp_size)


def test_an_unknown_family_is_planned_whole_and_refuses_to_split() -> None:
    checkpoint = Llama(extra={"model_type": "nobody_knows"}).open()

    assert "model.layers.0.self_attn.q_proj" in checkpoint.plan().layers
    with pytest.raises(PlanError, match="family is not known"):
        checkpoint.plan(tp_size=2)


@settings(deadline=None, max_examples=40)
@given(llamas().map(without_phi_bias), st.integers(1, 4))
def test_layers_that_stay_apart_hold_every_element_equally_often_too(llama: Llama, tp_size: int) -> None:
    checkpoint = llama.open()
    assume(tp_size in checkpoint.legal_tp())

    plans = [checkpoint.plan(tp_rank=rank, tp_size=tp_size, fuse=False) for rank in range(tp_size)]

    prove_ranks([plan.layout for plan in plans], checkpoint.index.tensors)
    assert all(len(layer.parts) == 1 or layer.fused_on_disk for plan in plans for layer in plan.layers.values())
    quantized = {name for name, info in checkpoint.lowered.modules.items() if info.scheme is not None}
    assert all(plan.layers.keys() == quantized for plan in plans)
