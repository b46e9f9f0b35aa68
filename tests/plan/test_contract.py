"""The contract: what every checkpoint's own tensors keep, and what is said of those that do not."""

from __future__ import annotations

from pathlib import Path

import pytest

import fp8load
from fp8load.contract import Arrival, Contract, Offer
from fp8load.errors import LoadError

FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "checkpoints"
ALL = sorted(path.name for path in FOLDER.iterdir() if (path / "config.json").exists())
NOT_LOADED = {"ctmf-gptoss-mxfp4a16"}
"""Its tensors contradict its configuration, and a contract is made of what loads."""


def contract(name: str) -> Contract:
    return fp8load.open(FOLDER / name).contract()


def offers(name: str) -> list[Offer]:
    return [
        Offer(meta.name, meta.shape, meta.dtype.value) for meta in fp8load.open(FOLDER / name).index.tensors.values()
    ]


@pytest.mark.parametrize("name", [name for name in ALL if name not in NOT_LOADED])
def test_a_checkpoint_keeps_its_own_contract_and_any_tensor_that_is_left_out_is_named(name: str) -> None:
    made, whole = contract(name), offers(name)

    assert made.check(whole, complete=True) == []
    for at in range(0, len(whole), 5):
        problems = made.check(whole[:at] + whole[at + 1 :], complete=True)
        role = made.terms[whole[at].name].role
        assert role == "unused" or any(whole[at].name in f"{one.tensor} {one.expected}" for one in problems), whole[at]


@pytest.mark.parametrize("name", ["hf-llama256-fp8-block", "mo-gptoss-fp8", "ct-llama128-nvfp4"])
def test_a_contract_is_the_same_after_it_was_written_and_read(name: str) -> None:
    made = contract(name)

    read = Contract.model_validate_json(made.to_json())

    assert read == made
    assert read.check(offers(name), complete=True) == []


def test_every_rank_has_the_same_contract() -> None:
    checkpoint = fp8load.open(FOLDER / "hf-qwen3moe-fp8-block32")

    contracts = [checkpoint.plan(ep_rank=rank, ep_size=2).contract for rank in range(2)]

    assert contracts[0] == contracts[1] == checkpoint.contract()


def test_scales_of_all_experts_in_one_tensor_come_with_the_weights_of_all() -> None:
    made = contract("hf-qwen3moe-fp8-block32")
    group = max(made.groups, key=lambda one: len(made.groups[one]))
    names = made.groups[group]
    some = [Offer(made.terms[name].name, made.terms[name].shape, made.terms[name].dtype) for name in names[:2]]

    problems = made.check(some)

    assert len(names) > 4
    assert [problem.code for problem in problems] == ["FILL724"]
    assert names[2] in problems[0].expected


W = "model.layers.0.mlp.down_proj.weight"


def test_scale_conventions_are_formulas_of_roles() -> None:
    names = ("ct-llama128-nvfp4", "mo-llama128-mxfp8", "hf-llama256-fp8-block")
    said = {name: contract(name).schemes[0] for name in names}

    assert said["ct-llama128-nvfp4"].real == "code * weight_scale / weight_global_scale"
    assert said["mo-llama128-mxfp8"].real == "code * 2 ** (weight_scale - 127)"
    assert said["mo-llama128-mxfp8"].block == (1, 32)
    assert said["hf-llama256-fp8-block"].real == "code * weight_scale"
    assert (said["hf-llama256-fp8-block"].block, said["hf-llama256-fp8-block"].largest) == ((128, 128), 448.0)
    assert "pre_quant_scale" in " ".join(one.real for one in contract("mo-llama128-nvfp4-awqlite").schemes)


def test_a_sender_sees_before_it_sends_what_a_receiver_would_refuse() -> None:
    made = contract("ct-llama128-fp8-static")
    shape = made.terms[W].shape

    assert made.arrival(W, "BF16") is Arrival.QUANTIZED
    assert made.check([Offer(W, shape, "BF16")]) == []
    faults = {
        "FILL720": [Offer("nonsense", (1,), "F32")],
        "FILL721": [Offer(W, shape, "BF16"), Offer(W, shape, "BF16")],
        "FILL722": [Offer(W, (*shape, 1), "BF16")],
        "FILL723": [Offer(W, shape, "F13")],
        "FILL724": [Offer(W, shape, "F8_E4M3")],
    }
    for code, offered in faults.items():
        with pytest.raises(LoadError, match=code):
            made.raise_for(made.check(offered))


def test_an_incomplete_whole_says_how_many_more_are_missing() -> None:
    made = contract("ct-llama128-fp8-static")

    with pytest.raises(LoadError, match=r"does not come[\s\S]*more: "):
        made.raise_for(made.check([], complete=True))
