"""Each dialect's configuration becomes the one vocabulary, and what is not known is an error that says so."""

from __future__ import annotations

from typing import Any

import pytest

from fp8load.dtypes import DType
from fp8load.errors import ConfigError
from fp8load.formats.base import CheckpointFormat, Claimed, Ignored, Located, Unclaimed
from fp8load.formats.locate import format_modules, locate, read_format
from fp8load.scheme import PerBlock, PerChannel, PerGroup, PerTensor, PerToken, ScaleRounding

FP8_BLOCK = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
FP8_STATIC = {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]}
MODELOPT = {"producer": {"name": "modelopt", "version": "0.31"},
            "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8",
                             "exclude_modules": ["lm_head", "*.gate"]}}  # fmt: skip


def ct(weights: dict[str, Any], inputs: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A compressed-tensors configuration with one group."""
    group = {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", **weights}}
    if inputs is not None:
        group["input_activations"] = {"num_bits": 8, "type": "float", **inputs}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, **more}


def quark(dtype: str, **more: Any) -> dict[str, Any]:
    """Quark's configuration of an MX scheme, weights alone."""
    weight = {"dtype": dtype, "qscheme": "per_group", "group_size": 32, "scale_format": "e8m0"}
    return {"quant_method": "quark", "global_quant_config": {"weight": weight}, **more}


def parse(document: dict[str, Any]) -> CheckpointFormat:
    """The format of a configuration."""
    return read_format(Located(place="config.json quantization_config", document=document))


def scheme_of(document: dict[str, Any], module: str = "model.layers.0.mlp.up_proj") -> Any:
    """The scheme that a configuration claims for a module."""
    claim = parse(document).claim(module)
    assert isinstance(claim, Claimed)
    return claim.scheme


def rotations(*locations: str) -> dict[str, Any]:
    """A transform_config whose one rotation is applied at some places."""
    places = [{"targets": ["Linear"], "location": location, "inverse": False, "ignore": []} for location in locations]
    return {"config_groups": {"R1": {"type": "hadamard", "apply": places, "randomize": False}}}


def test_every_format_file_is_found_by_its_listing() -> None:
    names = [module.NAME for module in format_modules()]

    assert names == [
        "ascend", "auto_round", "comfyui", "comfyui_legacy", "compressed_tensors", "deepseek_v4", "fbgemm", "fp8",
        "mistral_native", "modelopt", "modelopt_on_fp8", "mxfp4", "mxfp8", "quanto", "quark", "torchao",
        "torchao_metadata", "w4afp8",
    ]  # fmt: skip


def test_fp8_blocks_quantize_the_input_in_groups_as_wide_as_a_block() -> None:
    scheme = scheme_of({**FP8_BLOCK, "weight_block_size": [24, 8]})

    assert scheme.weight.granularity == PerBlock(24, 8)
    assert scheme.input.granularity == PerGroup(8)
    assert not scheme.input_static


def test_fp8_without_blocks_is_per_tensor() -> None:
    static, dynamic = scheme_of(FP8_STATIC), scheme_of({**FP8_STATIC, "activation_scheme": "dynamic"})

    assert static.weight.granularity == dynamic.weight.granularity == PerTensor()
    assert (static.input.granularity, static.input_static) == (PerTensor(), True)
    assert (dynamic.input.granularity, dynamic.input_static) == (PerToken(), False)


def test_fp8_scale_fmt_says_how_values_are_rounded_not_how_they_are_stored() -> None:
    scheme = scheme_of({**FP8_BLOCK, "scale_fmt": "ue8m0"})

    assert scheme.rounding is ScaleRounding.POWER_OF_TWO
    assert scheme.weight.scale_dtype is None


@pytest.mark.parametrize("fmt", ["e5m2", "float8_e5m2"])
def test_fp8_element_dtype_is_what_fmt_says(fmt: str) -> None:
    assert scheme_of({**FP8_BLOCK, "fmt": fmt}).weight.dtype is DType.F8_E5M2


def test_fp8_bare_names_cover_whole_components_only() -> None:
    fmt = parse({**FP8_BLOCK, "modules_to_not_convert": ["gate", "lm_head", "model.layers.1"]})

    assert fmt.claim("model.layers.0.block_sparse_moe.gate") == Ignored(by="gate")
    assert isinstance(fmt.claim("model.layers.0.mlp.gate_proj"), Claimed)
    assert isinstance(fmt.claim("model.layers.10.mlp.up_proj"), Claimed)
    assert fmt.claim("model.layers.1.mlp.up_proj") == Ignored(by="model.layers.1")


def test_fp8_is_explicit_only_with_a_list() -> None:
    bare, listed = parse(FP8_BLOCK).claim("m"), parse({**FP8_BLOCK, "modules_to_not_convert": []}).claim("m")

    assert isinstance(bare, Claimed)
    assert isinstance(listed, Claimed)
    assert (bare.explicit, listed.explicit) == (False, True)


@pytest.mark.parametrize(
    ("weights", "granularity"),
    [({"strategy": "tensor"}, PerTensor()), ({"strategy": "channel"}, PerChannel()),
     ({"strategy": "block", "block_structure": [64, 32]}, PerBlock(64, 32))],
)  # fmt: skip
def test_compressed_tensors_strategies(weights: dict[str, Any], granularity: object) -> None:
    assert scheme_of(ct(weights)).weight.granularity == granularity


@pytest.mark.parametrize(
    ("inputs", "granularity", "static"),
    [({"strategy": "tensor", "dynamic": False}, PerTensor(), True),
     ({"strategy": "token", "dynamic": True}, PerToken(), False),
     ({"strategy": "group", "group_size": 128, "dynamic": True}, PerGroup(128), False)],
)  # fmt: skip
def test_compressed_tensors_inputs(inputs: dict[str, Any], granularity: object, static: bool) -> None:
    scheme = scheme_of(ct({"strategy": "channel"}, inputs))

    assert (scheme.input.granularity, scheme.input_static) == (granularity, static)


def test_compressed_tensors_without_input_activations_is_weight_only() -> None:
    assert scheme_of(ct({"strategy": "channel"})).input is None


@pytest.mark.parametrize("said", [None, {}, {"config_groups": {}}, rotations("weight_input", "weight_output")])
def test_compressed_tensors_whose_weights_hold_every_rotation_that_there_is(said: Any) -> None:
    assert scheme_of(ct({"strategy": "channel"}, transform_config=said)).transforms == ()


def test_compressed_tensors_ignore_is_a_full_name_or_a_regex_matched_from_the_start() -> None:
    fmt = parse(ct({"strategy": "channel"}, ignore=["lm_head", r"re:.*\.mlp\.gate$"]))

    assert fmt.claim("lm_head") == Ignored(by="lm_head")
    assert fmt.claim("model.layers.3.mlp.gate") == Ignored(by=r"re:.*\.mlp\.gate$")
    assert isinstance(fmt.claim("model.layers.3.mlp.gate_proj"), Claimed)
    assert isinstance(fmt.claim("draft.lm_head"), Claimed)


def test_compressed_tensors_linear_does_not_mean_embeddings() -> None:
    assert parse(ct({"strategy": "channel"})).claim("model.embed_tokens") == Unclaimed()


def test_compressed_tensors_targets_by_name_leave_the_rest_unclaimed() -> None:
    document = ct({"strategy": "channel"})
    document["config_groups"]["group_0"]["targets"] = ["re:.*self_attn.*"]
    fmt = parse(document)

    assert isinstance(fmt.claim("model.layers.0.self_attn.q_proj"), Claimed)
    assert fmt.claim("model.layers.0.mlp.up_proj") == Unclaimed()


def test_modelopt_is_read_nested_and_flat_with_or_without_a_method() -> None:
    flat = {"quant_algo": "FP8", "ignore": ["lm_head", "*.gate"], "kv_cache_scheme": "FP8", "quant_library": "modelopt"}

    for document in (MODELOPT, flat, {**flat, "quant_library": None, "quant_method": "modelopt"}):
        fmt = parse(document)
        assert fmt.name == "modelopt"
        assert fmt.kv is not None
        assert fmt.claim("lm_head") == Ignored(by="lm_head")
        assert fmt.claim("model.layers.0.mlp.gate") == Ignored(by="*.gate")
        assert isinstance(fmt.claim("model.layers.0.mlp.gate_proj"), Claimed)


def test_modelopt_globs_end_at_the_dot() -> None:
    fmt = parse({"quant_algo": "FP8", "quant_method": "modelopt", "ignore": ["model.layers.1.*"]})

    assert isinstance(fmt.claim("model.layers.10.mlp.up_proj"), Claimed)
    assert isinstance(fmt.claim("model.layers.1.mlp.up_proj"), Ignored)


@pytest.mark.parametrize(("dtype", "element"), [("fp6_e3m2", DType.F6_E3M2), ("fp6_e2m3", DType.F6_E2M3)])
@pytest.mark.parametrize("version", ["0.10", "0.13", "1.0.1+rocm"])
def test_quarks_six_bit_floats_are_read_from_the_version_on_that_packs_them_so(
    dtype: str, element: DType, version: str
) -> None:
    scheme = scheme_of(quark(dtype, version=version))

    assert (scheme.weight.dtype, scheme.weight.granularity, scheme.input) == (element, PerGroup(32), None)


def test_unknown_keys_are_kept_for_the_report() -> None:
    for document in (FP8_BLOCK, ct({"strategy": "tensor"}), MODELOPT):
        assert parse({**document, "shiny_new": 1}).unknown_keys == ("shiny_new",)
        assert parse(document).unknown_keys == ()


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"quant_method": "magic"}, "magic"),
        ({**FP8_BLOCK, "activation_scheme": "sometimes"}, "sometimes"),
        ({**FP8_BLOCK, "weight_block_size": 128}, "weight_block_size"),
        ({**FP8_BLOCK, "fmt": "e3m4"}, "e3m4"),
        (ct({"strategy": "channel", "num_bits": 4}), "float4"),
        (ct({"strategy": "channel", "type": "int"}), "int8"),
        (ct({"strategy": "group", "group_size": 32}), "group"),
        (ct({"strategy": "block"}), "block_structure"),
        (ct({"strategy": "channel", "symmetric": False}), "asymmetric"),
        (ct({"strategy": "channel"}, {"strategy": "token", "dynamic": False}), "static per token"),
        (ct({"strategy": "channel"}, transform_config={"R1": {}}), "transform_config"),
        (ct({"strategy": "channel"}, transform_config={"config_groups": {"R1": {"type": "hadamard"}}}), "R1.apply"),
        (ct({"strategy": "channel"}, transform_config=rotations("weight_output", "input")), "R1 at input"),
        (ct({"strategy": "channel"}, transform_config=rotations("q_attn")), "R1 at q_attn"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "W4A8_AWQ"),
        (quark("fp6_e3m2", version="0.9"), "0.9"),
        (quark("fp6_e2m3"), "version"),
        (quark("int4"), "int4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4_AWQ", "has_zero_point": True}, "has_zero_point"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_an_error_that_names_it(document: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(document)

    assert named in str(caught.value)
    assert caught.value.where == "config.json quantization_config"


@pytest.mark.parametrize(
    "document",
    [{"quant_method": "fp8"}, {**FP8_BLOCK, "activation_scheme": "static"},
     {**FP8_BLOCK, "weight_block_size": [0, 128]}],
)  # fmt: skip
def test_contradictions_inside_the_configuration_are_problems_that_refuse(document: dict[str, Any]) -> None:
    problems = parse(document).problems

    assert problems
    assert all(problem.refuses for problem in problems)


def test_config_json_counts_before_the_files_beside_it() -> None:
    configs = {"config.json": {"quantization_config": FP8_BLOCK}, "hf_quant_config.json": MODELOPT}

    assert [located.place for located in locate(configs)] == ["config.json quantization_config", "hf_quant_config.json"]
    assert [located.place for located in locate({"hf_quant_config.json": MODELOPT})] == ["hf_quant_config.json"]
    nested = {"config.json": {"text_config": {"quantization_config": FP8_BLOCK}}}
    assert [located.place for located in locate(nested)] == ["config.json text_config.quantization_config"]


@pytest.mark.parametrize("document", [[1], "fp8", 3])
def test_a_configuration_that_is_no_object_is_an_error_not_an_absence(document: Any) -> None:
    with pytest.raises(ConfigError, match="no object"):
        list(locate({"config.json": {"quantization_config": document}}))
