"""Configurations and headers of published models: which modules are quantized, how, and what is wrong with them."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest

from fp8load.checkpoint import Checkpoint
from fp8load.dtypes import DType
from fp8load.formats.base import CheckpointFormat, Claimed, Ignored
from fp8load.formats.locate import format_modules, locate, read_format
from fp8load.rules.base import Context
from fp8load.rules.f8l301_ignore_entry_matches_nothing import RULE
from fp8load.scheme import LinearScheme, PerBlock, PerGroup, QuantSpec, Role, ScaleRounding, SharedExponent
from sketch import open_skeleton

FOLDER = Path(__file__).parents[2] / "fixtures" / "census"
MODELS = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())

BLOCK = "f8_e4m3 block 128 x 128, scale {}; input dynamic group 1 x 128"
MXFP8 = "f8_e4m3 group 1 x 32, scale F8_E8M0; input dynamic group 1 x 32"
FP4 = "f4 group 1 x 32, scale F8_E8M0; input dynamic group 1 x 128"


class Expected(NamedTuple):
    """What an excerpt is lowered to.

    schemes   scheme -> number of modules, those with a problem aside
    plain     last components of the matrices that are not quantized
    problems  code and tensor
    stale     entries of the ignore list that name nothing in the excerpt
    """

    schemes: dict[str, int]
    plain: set[str]
    problems: frozenset[tuple[str, str]] = frozenset()
    stale: int = 0


V4_PLAIN = {"embed", "head", "gate", "wgate", "wkv", "weights_proj"}
QKV = "model.layers.0.self_attn.qkv_proj.weight_scale_inv"
CASES = {
    "deepseek-ai--DeepSeek-V3.2": Expected(
        {BLOCK.format("F32"): 3 + 3 * 7 + 2 * 3 * 3},
        {"lm_head", "embed_tokens", "weights_proj", "gate", "eh_proj", "head"},
    ),
    "moonshotai--Kimi-K2-Instruct": Expected({BLOCK.format("F32"): 3 + 2 * 5 + 9}, {"lm_head", "embed_tokens", "gate"}),
    "Qwen--Qwen3-8B-FP8": Expected({BLOCK.format("BF16"): 36 * 7}, {"lm_head", "embed_tokens"}),
    "Qwen--Qwen3-30B-A3B-FP8": Expected(
        {BLOCK.format("BF16"): 2 * (4 + 2 * 3)}, {"lm_head", "embed_tokens", "gate"}, stale=144 - 6
    ),
    "MiniMaxAI--MiniMax-M2.5": Expected({BLOCK.format("F32"): 2 * (4 + 2 * 3)}, {"lm_head", "embed_tokens", "gate"}),
    "MiniMaxAI--MiniMax-M3-MXFP8": Expected(
        {MXFP8: 3 + 2 * 4 + 2 * 3 + 3 + 2},
        {"lm_head", "embed_tokens", "gate", "linear_1", "fc1", "q_proj", "k_proj", "v_proj", "out_proj"},
        stale=56,
    ),
    "XiaomiMiMo--MiMo-V2.5": Expected(
        {BLOCK.format("F32"): 1 + 3 + 6 + 1},
        {"lm_head", "embed_tokens", "o_proj", "gate", "eh_proj"},
        frozenset({("F8L501", QKV), ("F8L302", "model.mtp.layers.0.self_attn.o_proj.weight")}),
        stale=46 + 1,
    ),
    "zai-org--GLM-5-FP8": Expected(
        {BLOCK.format("F32"): 3 + 3 * 7 + 2 * 3 * 3},
        {"lm_head", "embed_tokens", "weights_proj", "gate", "eh_proj"},
        stale=76 * 7 + 74 * 2 + 3,
    ),
    "deepseek-ai--DeepSeek-V4-Pro": Expected({BLOCK.format("F8_E8M0"): 3 * 8 + 1 + 2, FP4: 18}, V4_PLAIN),
    "deepseek-ai--DeepSeek-V4-Flash": Expected({BLOCK.format("F8_E8M0"): 3 * 8 + 1 + 2, FP4: 18}, V4_PLAIN),
    "deepseek-ai--DeepSeek-V4.1-Flash": Expected(
        {
            "f8_e4m3 block 32 x 32, scale F8_E8M0; input dynamic group 1 x 32": 2 * 8 + 2,
            "f4 group 1 x 32, scale F8_E8M0; input dynamic group 1 x 32": 12,
            "f8_e4m3 group 1 x 32, scale F8_E8M0; weight-only": 1,
        },
        V4_PLAIN | {"wk", "wqkv", "w1", "proj"},
    ),
    "sgl-project--DeepSeek-V4-Flash-FP8": Expected(
        {BLOCK.format("F8_E8M0"): 3 * 8 + 1 + 18},
        V4_PLAIN,
        frozenset({("F8L201", "mtp.0.e_proj.scale"), ("F8L201", "mtp.0.h_proj.scale")}),
    ),
}


def config_of(model: str) -> dict[str, object]:
    """config.json."""
    return json.loads((FOLDER / model / "config.json").read_text())


def format_of(model: str) -> CheckpointFormat:
    """The format of a model's configuration."""
    return read_format(next(locate({"config.json": config_of(model)})))


def opened(model: str) -> Checkpoint:
    """The excerpt of a model."""
    headers = (FOLDER / model / "headers.skel").read_text()
    return open_skeleton(f"config {json.dumps(config_of(model))}\n{headers}")


def test_every_excerpt_is_expected_and_every_model_says_where_it_is_from() -> None:
    assert set(CASES) == {model for model in MODELS if (FOLDER / model / "headers.skel").exists()}
    for model in MODELS:
        assert (FOLDER / model / "SOURCE.txt").read_text().startswith("config.json: ")
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 2_000_000


@pytest.mark.parametrize("model", CASES)
def test_the_quantized_modules_and_their_schemes(model: str) -> None:
    lowered = opened(model).lowered
    faulty = {tensor for _, tensor in CASES[model].problems}
    counts: dict[str, int] = defaultdict(int)
    for info in lowered.modules.values():
        scale = info.tensors.get(Role.WEIGHT_SCALE)
        if info.scheme is not None and scale is not None and scale.name not in faulty:
            counts[str(info.scheme)] += 1

    assert counts == CASES[model].schemes
    assert {(problem.code, problem.tensor) for problem in lowered.problems} == CASES[model].problems


@pytest.mark.parametrize("model", CASES)
def test_what_is_left_as_it_is(model: str) -> None:
    modules = opened(model).lowered.modules.values()
    weights = {info.name: info.tensors[Role.WEIGHT] for info in modules}
    names = {name.rpartition(".")[2] for name, weight in weights.items()
             if len(weight.shape) == 2 and weight.dtype.is_wide_float}  # fmt: skip

    assert names == CASES[model].plain


@pytest.mark.parametrize("model", CASES)
def test_a_configuration_is_not_blamed_for_its_own_release(model: str) -> None:
    """Entries for layers that the excerpt leaves out are stale here; of the others only GLM's misspelt name is.

    A family that is known says which layers there are besides: fewer entries are stale then.
    """
    checkpoint = opened(model)
    report = checkpoint.verify("headers")
    counts: dict[str, int] = defaultdict(int)
    for finding in report.findings:
        counts[finding.code] += finding.count
    codes = {finding.code for finding in report.findings if finding.severity != "info"}

    assert codes - {"F8L109", "F8L301"} == {code for code, _ in CASES[model].problems}
    if checkpoint.arch is None:
        assert counts["F8L301"] == CASES[model].stale
    else:
        assert counts["F8L301"] <= CASES[model].stale


def test_glms_misspelt_entry_is_reported_with_the_module_that_was_meant() -> None:
    problems = {problem.module: problem for problem in RULE.check(Context(checkpoint=opened("zai-org--GLM-5-FP8")))}

    assert problems["model.layers.3.self_attn.indexers_proj"].got.endswith(
        "model.layers.3.self_attn.indexer.weights_proj"
    )


@pytest.mark.parametrize("model", MODELS)
def test_a_configuration_alone_is_read_without_complaint(model: str) -> None:
    fmt = format_of(model)

    assert fmt.problems == ()
    assert fmt.unknown_keys == ()
    assert isinstance(fmt.claim("lm_head"), Ignored if "lm_head" in fmt.ignore else Claimed)
    assert isinstance(fmt.claim("model.layers.4.mlp.experts.7.gate_proj"), Claimed)


@pytest.mark.parametrize("model", MODELS)
def test_one_format_recognises_a_configuration(model: str) -> None:
    located = next(locate({"config.json": config_of(model)}))
    names = [module.NAME for module in format_modules() if module.detect(located.seen)]

    assert names == [format_of(model).name]


def test_scales_of_v3_2_are_powers_of_two_in_f32() -> None:
    info = opened("deepseek-ai--DeepSeek-V3.2").lowered.modules["model.layers.61.self_attn.kv_a_proj_with_mqa"]

    assert info.scheme == LinearScheme(
        weight=QuantSpec(dtype=DType.F8_E4M3, granularity=PerBlock(128, 128), scale_dtype=DType.F32),
        input=QuantSpec(dtype=DType.F8_E4M3, granularity=PerGroup(128), exponent=SharedExponent.FIT),
        rounding=ScaleRounding.POWER_OF_TWO,
        suffixes=((Role.WEIGHT, "weight"), (Role.WEIGHT_SCALE, "weight_scale_inv")),
    )


def test_v4_parameters_that_are_called_scales_are_none() -> None:
    loose = opened("deepseek-ai--DeepSeek-V4-Pro").lowered.loose

    assert {"layers.2.hc_attn_scale", "hc_head_scale", "mtp.0.hc_head_scale", "layers.2.ffn.gate.tid2eid"} <= set(loose)


def test_experts_in_nvfp4_on_an_fp8_base_are_those_of_the_layers_that_are_listed() -> None:
    """ModelOpt signs the configuration too; its list of what it ignored does not mean "unquantized"."""
    fmt = format_of("nvidia--DeepSeek-V4-Flash-NVFP4")
    said = {name: fmt.claim(name) for name in (
        "layers.42.ffn.experts.255.w2", "mtp.0.ffn.experts.0.w1", "layers.0.attn.wq_a",
        "layers.0.ffn.shared_experts.w1",
    )}  # fmt: skip

    assert (fmt.name, fmt.problems, fmt.unknown_keys) == ("deepseek_v4", (), ())
    assert [str(claim.scheme).partition(",")[0] for claim in said.values() if isinstance(claim, Claimed)] == [
        "f4 group 1 x 16", "f4 group 1 x 32", "f8_e4m3 block 128 x 128; input dynamic group 1 x 128",
        "f8_e4m3 block 128 x 128; input dynamic group 1 x 128",
    ]  # fmt: skip
