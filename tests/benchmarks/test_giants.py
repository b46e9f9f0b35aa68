"""The generated repositories of the benchmarks are what was published, as far as that is known, and they load."""

from __future__ import annotations

import pytest

from benchmarks.giants import GIANTS, config_of, shrunk, skeleton
from fp8load.patterns import expand
from sketch import open_skeleton


@pytest.mark.parametrize("name", [name for name, giant in GIANTS.items() if giant.num_tensors])
def test_a_giant_has_as_many_tensors_as_its_published_index(name: str) -> None:
    giant = GIANTS[name]

    count = sum(len(list(expand(line.partition(" ")[0]))) for line in giant.lines(config_of(giant)))

    assert count == giant.num_tensors


CUT_BY_EIGHT = ("qwen3-235b-fp8", "minimax-m2.5", "gpt-oss-120b")
"""Experts of 1536 and 2880 columns: an eighth of them ends within a block of 128, and within a group of 32."""


@pytest.mark.parametrize(("name", "tp_size"), [
    (name, size) for name in GIANTS for size in (1, 8) if size == 1 or name not in CUT_BY_EIGHT
])  # fmt: skip
def test_a_giant_with_fewer_layers_lowers_and_plans_without_a_fault(name: str, tp_size: int) -> None:
    checkpoint = open_skeleton(skeleton(name, shrunk(config_of(GIANTS[name]))))
    plan = checkpoint.plan(tp_rank=tp_size - 1, tp_size=tp_size)

    assert checkpoint.problems == ()
    assert plan.num_elements > 0
    assert any(".experts" in layer for layer in plan.layers)


@pytest.mark.parametrize("name", CUT_BY_EIGHT)
def test_a_giant_whose_experts_an_eighth_would_cut_is_split_by_experts_instead(name: str) -> None:
    checkpoint = open_skeleton(skeleton(name, shrunk(config_of(GIANTS[name]))))

    assert 8 not in checkpoint.legal_tp()
    assert checkpoint.plan(ep_rank=7, ep_size=8).num_elements > 0
