"""Quark's configuration: operands by qscheme, layers by name and by class, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fp8load.dtypes import DType
from fp8load.errors import ConfigError, Fp8LoadError
from fp8load.formats.base import CheckpointFormat, Claimed, Located
from fp8load.formats.locate import read_format
from fp8load.scheme import PerBlock, PerChannel, PerGroup, PerTensor, PerToken
from sketch import open_skeleton

BLOCK = {"dtype": "fp8_e4m3", "qscheme": "per_block", "block_size": [128, 64], "is_dynamic": False}
GROUP = {"dtype": "fp8_e4m3", "qscheme": "per_group", "group_size": 128, "is_dynamic": True}
TENSOR = {"dtype": "fp8_e4m3", "qscheme": "per_tensor", "is_dynamic": False}
CHANNEL = {"dtype": "fp8_e4m3", "qscheme": "per_channel", "is_dynamic": True}
OFFLINE = {"online_r1_rotation": False, "r3": False, "r4": False}
MXFP6 = {"dtype": "fp6_e3m2", "qscheme": "per_group", "group_size": 32, "scale_format": "e8m0", "is_dynamic": False}
INT4 = {"dtype": "int4", "qscheme": "per_channel"}


def config(weight: Any, inputs: Any = None, **more: Any) -> dict[str, Any]:
    return {"quant_method": "quark", "global_quant_config": {"weight": weight, "input_tensors": inputs}, **more}


def parse(document: dict[str, Any]) -> CheckpointFormat:
    return read_format(Located(place="config.json quantization_config", document=document))


def scheme(document: dict[str, Any], module: str = "model.layers.0.mlp.up_proj") -> Any:
    claim = parse(document).claim(module)
    assert isinstance(claim, Claimed)
    return claim.scheme


@pytest.mark.parametrize(
    ("weight", "inputs", "granularities", "static"),
    [(BLOCK, GROUP, (PerBlock(128, 64), PerGroup(128)), False), (BLOCK, None, (PerBlock(128, 64), None), False),
     (TENSOR, TENSOR, (PerTensor(), PerTensor()), True), (CHANNEL, CHANNEL, (PerChannel(), PerToken()), False)],
)  # fmt: skip
def test_operands_are_read_by_their_qscheme(weight: Any, inputs: Any, granularities: Any, static: bool) -> None:
    found = scheme(config(weight, inputs))

    assert (found.weight.granularity, found.input and found.input.granularity) == granularities
    assert found.input_static is static


def test_the_other_float_is_declared_as_such() -> None:
    assert scheme(config({**TENSOR, "dtype": "fp8_e5m2"})).weight.dtype is DType.F8_E5M2


@pytest.mark.parametrize(
    ("mode", "exponent"), [(None, "element"), ("even", "element"), ("floor", "floor"), ("ceil", "ceil")]
)
def test_the_exponent_of_a_group_of_inputs_is_chosen_as_the_configuration_says(mode: Any, exponent: str) -> None:
    found = scheme(config(MXFP6, {**MXFP6, "is_dynamic": True, "scale_calculation_mode": mode}, version="0.13"))

    assert (found.input.exponent, found.weight.exponent) == (exponent, "floor")


def test_blocks_are_loaded_with_their_grid() -> None:
    checkpoint = open_skeleton("\n".join([
        "config " + json.dumps({"quantization_config": config(BLOCK, GROUP)}),
        "m.up.weight F8_E4M3 [192, 128]", "m.up.weight_scale F32 [2, 2]",
    ]))  # fmt: skip

    assert checkpoint.problems == ()
    assert checkpoint.plan().params["m.up.weight_scale"].shape == (2, 2)


@pytest.mark.parametrize(
    ("document", "named"),
    [
        (config([TENSOR, INT4]), r"fp8_e4m3 per_tensor None then int4 per_channel None"),
        (config(INT4), "int4 per_channel"),
        (config(MXFP6, {**MXFP6, "scale_calculation_mode": "odd"}, version="0.13"), "scale_calculation_mode"),
        (config({**BLOCK, "block_size": None}), "per_block"),
        (config({**BLOCK, "block_size": [0, 128]}), "per_block"),
        (config(GROUP), "per_group"),
        (config(BLOCK, {**GROUP, "is_dynamic": False}), "input_tensors"),
        (config(BLOCK, {**GROUP, "group_size": None}), "input_tensors"),
        (config(TENSOR, layer_type_quant_config={"Conv2d": {"weight": TENSOR}}), "Conv2d"),
        (config(TENSOR, layer_type_quant_config={"Linear": {"weight": INT4}}), "layer_type_quant_config Linear"),
        (config(TENSOR, layer_quant_config={"*o_proj": {"weight": [TENSOR, INT4]}}), r"layer_quant_config \*o_proj"),
        (config(TENSOR, algo_config=[{"name": "rotation"}]), "rotation"),
        (config(TENSOR, algo_config=[{"name": "awq"}, {"name": "rotation", **OFFLINE, "r4": True}]), "rotation: r4"),
        (config(TENSOR, algo_config=[{"name": "rotation", **OFFLINE, "online_r1_rotation": True}]), "online_r1"),
        (config(TENSOR, algo_config=[{"name": "shiny"}]), "shiny"),
    ],
)
def test_what_is_not_known_is_refused_by_name(document: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse(document)


@pytest.mark.parametrize("algo", [
    {"name": "awq", "scaling_layers": [{"prev_op": "input_layernorm", "layers": ["self_attn.q_proj"]}]},
    {"name": "autosmoothquant"}, {"name": "gptq"}, {"name": "rotation", "r1": True, "r2": True, **OFFLINE},
])  # fmt: skip
def test_what_was_folded_into_the_weights_changes_nothing(algo: dict[str, Any]) -> None:
    assert scheme(config(TENSOR, algo_config=[algo])) == scheme(config(TENSOR, algo_config=None))


def test_a_name_counts_before_the_class_and_the_class_before_the_rest() -> None:
    document = config(TENSOR, layer_type_quant_config={"Linear": {"weight": BLOCK}},
                      layer_quant_config={"*o_proj": {"weight": CHANNEL}})  # fmt: skip

    assert scheme(document, "model.layers.0.self_attn.o_proj").weight.granularity == PerChannel()
    assert scheme(document, "model.layers.0.self_attn.q_proj").weight.granularity == PerBlock(128, 64)
    assert scheme(document, "model.embed_tokens").weight.granularity == PerTensor()


KV = [f"model.layers.{i}.self_attn.{p}_proj.output_scale BF16 []" for i in (0, 1) for p in "kv"]


@pytest.mark.parametrize("declared", [
    {"export": {"kv_cache_group": ["*k_proj", "*v_proj"], "pack_method": "reorder"}},
    {"kv_cache_quant_config": {"*k_proj": {"weight": TENSOR}}},
])  # fmt: skip
def test_scales_of_the_cache_are_asked_for_where_the_export_says_which_projections_have_them(declared: Any) -> None:
    head = "config " + json.dumps({"quantization_config": config(TENSOR, **declared)})
    lines = [f"model.layers.{i}.self_attn.{p}_proj.{part}" for i in (0, 1) for p in "qkv"
             for part in ("weight F8_E4M3 [16, 16]", "weight_scale BF16 []")]  # fmt: skip
    whole, none, one = (open_skeleton("\n".join([head, *lines, *scales])) for scales in (KV, [], KV[:-1]))

    assert set(whole.plan().params) >= {f"model.layers.{i}.self_attn.{r}_scale" for i in (0, 1) for r in "kv"}
    assert "F8L901" not in {finding.code for finding in whole.verify("headers").findings}
    for checkpoint in (none, one):
        assert "F8L901" in {finding.code for finding in checkpoint.verify("headers").findings}


def test_the_scale_of_another_modules_output_is_refused_by_name() -> None:
    name = "m.up.output_scale"
    checkpoint = open_skeleton("\n".join([
        "config " + json.dumps({"quantization_config": config(TENSOR)}),
        "m.up.weight F8_E4M3 [16, 16]", "m.up.weight_scale BF16 []", f"{name} BF16 []",
    ]))  # fmt: skip

    with pytest.raises(Fp8LoadError, match=name):
        checkpoint.plan()
