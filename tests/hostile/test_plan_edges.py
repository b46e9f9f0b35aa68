"""Places where one wrong line of the plan or the reader used to go unseen."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fp8load
from fp8load.errors import Fp8LoadError, PlanError, UnfilledSlotError
from oracle.catalog import FOLDER
from oracle.damage import stored_of
from oracle.dequantize import Stored
from oracle.rewrite import bf16_bytes, write_checkpoint
from sketch import Llama, open_skeleton

STATIC = "ct-llama128-fp8-static"


def bf16(number: float) -> Stored:
    return Stored("BF16", (1,), bf16_bytes(np.array([number], np.float32)))


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("tp_size", [1, 2])
def test_a_channel_scale_that_is_fused_on_disk_is_cut_at_the_rows_of_its_slots(axes, tp_size):
    text = Llama(fused=True, scale="channel", layers=1).skeleton()
    if axes == 1:
        text = text.replace(", 1]", "]")
    plan = open_skeleton(text).plan(tp_rank=tp_size - 1, tp_size=tp_size)
    module = "model.layers.0.self_attn.qkv_proj"

    def rows(tensor: str) -> list[tuple[int, int]]:
        return [(copy.src.lo[0], copy.src.hi[0]) for copy in plan.copies_of(f"{module}.{tensor}")]

    whole = [(0, 64), (64, 96), (96, 128)]
    assert rows("weight_scale") == rows("weight")
    assert rows("weight") == (whole if tp_size == 1 else [(32, 64), (80, 96), (112, 128)])


def test_heads_that_do_not_divide_are_named_in_every_layer_that_has_them():
    odd = Llama(heads=3, kv_heads=1, head_dim=16, layers=1).open()
    cut = {tensor for finding in odd.verify(tp=[2]).findings if finding.code == "F8L504" for tensor in finding.tensors}

    assert cut == {f"model.layers.0.self_attn.{part}_proj.weight" for part in "qo"}
    assert odd.legal_tp() == [1, 3]


@pytest.mark.parametrize("other", [
    {"weights": {"num_bits": 8, "type": "float", "strategy": "tensor"}},
    {"input_activations": {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False}},
    {"input_activations": {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": True}},
    {"input_activations": None},
])  # fmt: skip
def test_members_of_a_fused_layer_that_run_differently_are_refused_by_name(other):
    model = Llama(scale="channel", layers=1)
    quantization = model.quantization()
    first = quantization["config_groups"]["group_0"]
    quantization["config_groups"]["group_1"] = {**first, "targets": ["re:.*k_proj"], **other}
    scale = "model.layers.{0..0}.self_attn.k_proj.weight_scale BF16"
    text = "\n".join(model.skeleton().splitlines()[1:])
    text = text.replace(f"{scale} [32, 1]", f"{scale} [1]" if "weights" in other else f"{scale} [32, 1]")
    if (other.get("input_activations") or {}).get("dynamic") is False:
        text += "\nmodel.layers.0.self_attn.k_proj.input_scale BF16 [1]"
    config = {**model.config(), "quantization_config": quantization}
    ckpt = open_skeleton(f"config {json.dumps(config)}\n{text}")

    assert "F8L306" in [finding.code for finding in ckpt.verify().findings]
    with pytest.raises(PlanError, match=r"q_proj") as caught:
        ckpt.plan()
    assert caught.value.problem.code == "F8L306"


@pytest.mark.parametrize("stored", ["F64 [1]", "U8 [1]", "F8_E4M3 [1]"])
def test_a_static_input_scale_that_is_no_float_is_refused_by_name(stored):
    name = "mlp.down_proj.input_scale"
    text = Llama(scale="tensor", static=True).skeleton().replace(f"{name} BF16 [1]", f"{name} {stored}")
    ckpt = open_skeleton(text)

    assert "F8L105" in [finding.code for finding in ckpt.verify().findings]
    with pytest.raises(Fp8LoadError, match=r"down_proj\.input_scale"):
        ckpt.plan()


def test_a_layer_of_which_nothing_is_stored_is_missed_under_the_name_that_other_layers_use():
    lines = Llama(fused=True, scale="tensor", layers=2).skeleton().splitlines()
    text = "\n".join(line.replace("{0..1}", "0") if "qkv_proj" in line else line for line in lines)
    report = open_skeleton(text).verify()

    absent = {name for finding in report.findings if finding.code == "F8L109" for name in finding.tensors}
    assert absent == {"model.layers.1.self_attn.qkv_proj.weight"}


@pytest.mark.parametrize("number", [0.0, -0.5, float("nan"), float("inf")])
def test_an_input_scale_that_nothing_can_be_divided_by_refuses_to_load(number, tmp_path):
    name = "model.layers.1.mlp.up_proj.input_scale"
    folder = write_checkpoint(FOLDER / STATIC, tmp_path, {**stored_of(STATIC), name: bf16(number)})

    assert not fp8load.open(folder).verify(level="scales").ok
    with pytest.raises(UnfilledSlotError, match=name.replace(".", r"\.")):
        fp8load.load(str(folder))


def test_a_tower_is_everything_under_its_name_and_nothing_beside_it():
    text = Llama(quantized=False, layers=1, extra={"model_type": "gemma3"}).skeleton()
    strangers = [
        {name for finding in open_skeleton(f"{text}\n{extra} BF16 [4]").verify().findings for name in finding.tensors}
        for extra in ("vision_tower.norm.weight", "vision_tower_norm.weight")
    ]

    assert "vision_tower.norm.weight" not in strangers[0]
    assert "vision_tower_norm.weight" in strangers[1]
