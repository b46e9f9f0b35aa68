"""ModelOpt with an algorithm for each layer, alone and on top of a checkpoint that was FP8 before."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fp8load.dtypes import DType
from fp8load.errors import ConfigError, Fp8LoadError
from fp8load.formats.base import CheckpointFormat, Claimed, Ignored, Located, Unclaimed
from fp8load.formats.locate import read_format
from fp8load.scheme import PerBlock, PerGroup, Role, ScaleRounding
from sketch import Llama, open_skeleton

CONFIGS = Path(__file__).resolve().parents[2] / "fixtures" / "configs"
BASE = Llama(quantized=False, hidden=64, intermediate=96)
ALGOS = {"gate_proj": "NVFP4", "up_proj": "NVFP4", "down_proj": "W4A16_NVFP4"}
MIXED = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}


def parse(document: dict[str, Any]) -> CheckpointFormat:
    return read_format(Located(place="config.json quantization_config", document=document))


def algo_of(module: str) -> str:
    """self_attn.* is FP8, gate and up NVFP4, down weight-only."""
    return ALGOS.get(module.rpartition(".")[2], "FP8")


def lines(module: str, num_rows: int, num_cols: int, algo: str) -> list[str]:
    """The tensors of one module on disk."""
    if algo == "FP8":
        return [f"{module}.weight F8_E4M3 [{num_rows}, {num_cols}]", f"{module}.weight_scale F32 []",
                f"{module}.input_scale F32 []"]  # fmt: skip
    if algo == "MXFP8":
        return [f"{module}.weight F8_E4M3 [{num_rows}, {num_cols}]",
                f"{module}.weight_scale U8 [{num_rows}, {num_cols // 32}]"]  # fmt: skip
    stored = [f"{module}.weight U8 [{num_rows}, {num_cols // 2}]",
              f"{module}.weight_scale F8_E4M3 [{num_rows}, {num_cols // 16}]",
              f"{module}.weight_scale_2 F32 []"]  # fmt: skip
    return stored if algo == "W4A16_NVFP4" else [*stored, f"{module}.input_scale F32 []"]


def mixed(algos: dict[str, str] | None = None, *, drop: str = "", files: str = "", **more: Any) -> Any:
    """A llama whose layers have algorithms of their own; `algos` replaces some, by module. `files`: lines for files
    beside config.json."""
    chosen = {
        f"model.layers.{layer}.{name}": (algos or {}).get(name, algo_of(name))
        for layer in range(BASE.layers)
        for name in BASE.linears()
    }
    listed = {module: {"quant_algo": algo} | ({} if algo == "FP8" else {"group_size": 16 if "NV" in algo else 32})
              for module, algo in chosen.items()}  # fmt: skip
    quantization = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "ignore": ["lm_head"],
                    "quantized_layers": listed, **more}  # fmt: skip
    config = {**BASE.config(), "quantization_config": quantization}
    skeleton = BASE.skeleton().splitlines()
    text = [f"config {json.dumps(config)}", *files.splitlines()]
    text += [line for line in skeleton[1:] if "_proj.weight" not in line]
    for module, algo in chosen.items():
        text += lines(module, *BASE.linears()[module.split(".", 3)[3]], algo)
    return open_skeleton("\n".join(line for line in text if line.split()[0] != drop))


def test_each_layer_has_its_algorithm_and_one_suffix_its_meaning() -> None:
    checkpoint = mixed()
    params = checkpoint.plan(tp_size=2).params

    assert checkpoint.problems == ()
    layer = "model.layers.1"
    assert params[f"{layer}.self_attn.qkv_proj.weight"].dtype is DType.F8_E4M3
    assert params[f"{layer}.self_attn.qkv_proj.input_scale"].shape == (3,)
    assert params[f"{layer}.mlp.gate_up_proj.weight"].dtype is DType.F4
    assert params[f"{layer}.mlp.gate_up_proj.input_global_scale"].shape == (2,)
    assert not {f"{layer}.mlp.down_proj.{role}" for role in (Role.INPUT_SCALE, Role.INPUT_GLOBAL_SCALE)} & params.keys()
    assert params[f"{layer}.mlp.down_proj.weight_global_scale"].shape == (1,)


def test_mxfp8_stands_beside_the_others() -> None:
    checkpoint = mixed({"mlp.down_proj": "MXFP8"})
    scheme = checkpoint.lowered.modules["model.layers.0.mlp.down_proj"].scheme

    assert checkpoint.problems == ()
    assert (scheme.weight.granularity, scheme.weight.scale_dtype) == (PerGroup(32), DType.F8_E8M0)


@pytest.mark.parametrize(
    ("gone", "code"),
    [("self_attn.k_proj.input_scale", "F8L204"), ("mlp.up_proj.input_scale", "F8L204"),
     ("mlp.down_proj.weight_scale_2", "F8L205"), ("mlp.gate_proj.weight_scale", "F8L201"),
     ("self_attn.o_proj.weight_scale", "F8L201")],
)  # fmt: skip
def test_a_missing_scale_is_named_as_it_would_be_called(gone: str, code: str) -> None:
    name = f"model.layers.1.{gone}"
    checkpoint = mixed(drop=name)

    assert (code, name) in {(problem.code, problem.tensor) for problem in checkpoint.problems}
    with pytest.raises(Fp8LoadError, match=name):
        checkpoint.plan()


def test_members_of_a_fused_layer_with_different_algorithms_are_refused() -> None:
    with pytest.raises(Fp8LoadError, match="F8L306"):
        mixed({"mlp.up_proj": "W4A16_NVFP4"}).plan()


def test_a_quantized_module_that_is_not_listed_is_refused_and_one_that_is_stored_otherwise_too() -> None:
    unlisted = mixed({}, quantized_layers={"model.layers.0": {"quant_algo": "FP8"}})

    assert {problem.code for problem in unlisted.problems} >= {"F8L105"}
    assert any("model.layers.1." in problem.tensor for problem in unlisted.problems)


def groups_of(listed: dict[str, Any], changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """`config_groups` as the exporter writes them, and what `changes` makes of the numbers of an algorithm."""
    words: dict[str, dict[str, Any]] = {
        "FP8": {"weights": {"num_bits": 8, "type": "float"}},
        "NVFP4": {"weights": {"num_bits": 4, "type": "float", "group_size": 16}},
        "W4A16_NVFP4": {"quant_algo": "W4A16_NVFP4"},
    }
    return {
        f"group_{at}": {
            **_changed(words[algo], changes.get(algo, {})),
            "targets": [module for module, entry in listed.items() if entry["quant_algo"] == algo],
        }
        for at, algo in enumerate(words)
    }  # fmt: skip


def _changed(said: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {"weights": {**said["weights"], **changes}} if "weights" in said else {**said, **changes}


def listed() -> dict[str, Any]:
    """`quantized_layers` of `mixed()`."""
    modules = [f"model.layers.{layer}.{name}" for layer in range(BASE.layers) for name in BASE.linears()]
    return {module: {"quant_algo": algo_of(module)} | ({} if algo_of(module) == "FP8" else {"group_size": 16})
            for module in modules}  # fmt: skip


@pytest.mark.parametrize(
    ("algo", "wrong"),
    [("NVFP4", {"num_bits": 8}), ("NVFP4", {"group_size": 32}), ("NVFP4", {"type": "int"}), ("FP8", {"num_bits": 4}),
     ("FP8", {"strategy": "channel"}), ("W4A16_NVFP4", {"quant_algo": "MXFP8"})],
)  # fmt: skip
def test_what_the_groups_say_of_layers_is_compared_with_their_algorithms(algo: str, wrong: dict[str, Any]) -> None:
    def found(changes: dict[str, dict[str, Any]]) -> list[Any]:
        checkpoint = mixed(config_groups=groups_of(listed(), changes))
        return [finding for finding in checkpoint.verify("headers").findings if finding.code == "F8L105"]

    (finding,) = found({algo: wrong})
    ((key, value),) = wrong.items()

    assert found({}) == []
    assert finding.severity == "warning"
    assert finding.modules == sorted(module for module in listed() if algo_of(module) == algo)
    assert f"{key} {value}, in config_groups.group_" in finding.got
    assert algo in finding.expected


@pytest.mark.parametrize(
    ("algo", "wrong"), [("FP8", {"num_bits": 4}), ("NVFP4", {"group_size": 32}), ("NVFP4", {"num_bits": 8})]
)
def test_one_algorithm_for_all_layers_is_compared_with_its_group(algo: str, wrong: dict[str, Any]) -> None:
    def found(changes: dict[str, Any]) -> list[Any]:
        weights = groups_of({}, {algo: changes})[f"group_{('FP8', 'NVFP4').index(algo)}"]["weights"]
        document = {"quant_method": "modelopt", "quant_algo": algo, "ignore": [],
                    "config_groups": {"group_0": {"weights": weights, "targets": ["Linear"]}}}  # fmt: skip
        text = ["config " + json.dumps({"quantization_config": document}), *lines("m.down_proj", 64, 64, algo)]
        findings = open_skeleton("\n".join(text)).verify("headers").findings
        return [finding for finding in findings if finding.code == "F8L105"]

    (finding,) = found(wrong)

    assert found({}) == []
    assert (finding.severity, finding.modules) == ("warning", [])


def test_groups_beside_an_algorithm_that_another_method_does_not_read_are_not_compared() -> None:
    document = {"quant_method": "fp8", "activation_scheme": "dynamic", "quant_algo": "FOO",
                "config_groups": groups_of({}, {})}  # fmt: skip
    text = ["config " + json.dumps({"quantization_config": document}), *lines("m.down_proj", 64, 64, "FP8")]
    report = open_skeleton("\n".join(text)).verify("headers")

    assert report.summary.crashed == []
    assert "F8L105" not in {finding.code for finding in report.findings}


OTHERS = [
    {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}, {"quant_algo": "NVFP4", "group_size": 32},
    {"quant_algo": "W4A16_NVFP4", "group_size": 16}, {"quant_algo": "NVFP4_AWQ", "group_size": 16},
]  # fmt: skip


@pytest.mark.parametrize("entry", OTHERS)
def test_the_file_beside_config_json_is_compared_layer_by_layer(entry: dict[str, Any]) -> None:
    """Every layer of which it says another algorithm or group is named, and the KV cache beside them."""
    wrong = ["model.layers.0.mlp.gate_proj", "model.layers.1.self_attn.o_proj"]

    def found(changes: dict[str, Any], **more: Any) -> list[Any]:
        second = {"quant_algo": "MIXED_PRECISION", "exclude_modules": ["lm_head"],
                  "quantized_layers": {**listed(), **changes}, **more}  # fmt: skip
        beside = "file hf_quant_config.json " + json.dumps({"producer": {"name": "modelopt"}, "quantization": second})
        checkpoint = mixed(files=beside)
        return [finding for finding in checkpoint.verify("headers").findings if finding.code == "F8L103"]

    findings = found(dict.fromkeys(wrong, entry), kv_cache_quant_algo="FP8")

    assert found({}) == []
    assert {one.severity: one.modules for one in findings} == {"error": wrong, "warning": []}


def test_an_entry_stands_for_what_is_below_it_and_the_nearest_one_counts() -> None:
    layers = {"model.layers.1.mlp.experts": {"quant_algo": "NVFP4", "group_size": 16},
              "model.layers.1.mlp.experts.3.down_proj": {"quant_algo": "FP8"}}  # fmt: skip
    fmt = parse({**MIXED, "ignore": ["*.router"], "quantized_layers": layers})

    def dtype(module: str) -> DType:
        claim = fmt.claim(module)
        assert isinstance(claim, Claimed)
        return claim.scheme.weight.dtype

    assert dtype("model.layers.1.mlp.experts.0.up_proj") is DType.F4
    assert dtype("model.layers.1.mlp.experts.3.up_proj") is DType.F4
    assert dtype("model.layers.1.mlp.experts.3.down_proj") is DType.F8_E4M3
    assert fmt.claim("model.layers.1.mlp.experts_gate") == fmt.claim("model.layers.10.mlp.experts.0") == Unclaimed()
    assert fmt.claim("model.layers.1.mlp.experts.router") == Ignored(by="*.router")


@pytest.mark.parametrize(
    ("entry", "named"),
    [({"quant_algo": "W4A8_AWQ", "group_size": 128}, "W4A8_AWQ"), ({"quant_algo": "iq2_xs"}, "IQ2_XS"),
     ({"quant_algo": "FP8", "shiny": 1}, "shiny"),
     ({"quant_algo": "NVFP4_AWQ", "has_zero_point": True}, "has_zero_point"),
     ({"quant_algo": None}, "model.layers.0.mlp")],
)  # fmt: skip
def test_an_algorithm_or_a_key_that_is_not_known_is_an_error_that_names_it(entry: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse(
            {
                "quant_method": "modelopt",
                "quant_algo": "MIXED_PRECISION",
                "quantized_layers": {"model.layers.0.mlp": entry},
            }
        )


@pytest.mark.parametrize("document", [
    {"quant_algo": "MIXED_PRECISION", "quantized_layers": {}},
    {"quantization": {"quant_algo": "MIXED_PRECISION", "quantized_layers": {}}},
    {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": {}},
])  # fmt: skip
def test_a_configuration_that_lists_nothing_is_refused_at_the_first_quantized_tensor(document: dict[str, Any]) -> None:
    module = "model.layers.0.self_attn.o_proj"
    checkpoint = open_skeleton("\n".join([
        "config " + json.dumps({"quantization_config": document}),
        f"{module}.weight F8_E4M3 [64, 64]", f"{module}.weight_scale_inv F32 [1, 1]",
        "model.layers.0.mlp.experts.0.w1.weight I8 [64, 32]",
        "model.layers.0.mlp.experts.0.w1.weight_scale_inv BF16 [64, 1]",
    ]))  # fmt: skip

    with pytest.raises(Fp8LoadError, match=rf"(?s)MIXED_PRECISION.*{module}\.weight"):
        checkpoint.plan()


def test_the_published_mixed_configuration_claims_every_layer_that_it_lists() -> None:
    document = json.loads((CONFIGS / "nvidia--Qwen3.6-27B-NVFP4" / "hf_quant_config.json").read_text())
    fmt = read_format(Located(place="hf_quant_config.json", document=document))
    listed = document["quantization"]["quantized_layers"]

    claims = [fmt.claim(module) for module in listed]
    assert all(isinstance(claim, Claimed) for claim in claims)
    assert Counter(claim.scheme.weight.dtype for claim in claims) == {DType.F8_E4M3: 208, DType.F4: 193}
    assert {claim.scheme.input is None for claim in claims if claim.scheme.weight.dtype is DType.F4} == {True}
    assert isinstance(fmt.claim("mtp.layers.0.mlp.up_proj"), Ignored)
    assert fmt.claim("model.visual.blocks.0.attn.qkv") == Unclaimed()
    assert fmt.unknown_keys == ()
    assert "FP8" in fmt.title
    assert "x 208" in fmt.title


def on_fp8() -> dict[str, Any]:
    """nvidia/DeepSeek-V4-Flash-NVFP4."""
    document = json.loads((CONFIGS / "nvidia--DeepSeek-V4-Flash-NVFP4" / "config.json").read_text())
    return document["quantization_config"]


def test_what_modelopt_left_alone_keeps_the_quantization_of_the_base() -> None:
    fmt = parse(on_fp8())
    attention, shared = fmt.claim("layers.3.attn.wq_b"), fmt.claim("layers.3.ffn.shared_experts.w1")
    expert = fmt.claim("layers.3.ffn.experts.7.w2")

    assert fmt.name == "modelopt_on_fp8"
    for claim in (attention, shared, fmt.claim("mtp.0.e_proj")):
        assert isinstance(claim, Claimed)
        assert claim.scheme.weight.granularity == PerBlock(128, 128)
        assert claim.scheme.rounding is ScaleRounding.POWER_OF_TWO
    assert isinstance(expert, Claimed)
    assert (expert.scheme.weight.dtype, expert.scheme.weight.granularity) == (DType.F4, PerGroup(16))
    assert fmt.by_module["input_scale"].find("layers.3.ffn.experts.7.w2") is Role.INPUT_GLOBAL_SCALE
    assert fmt.unknown_keys == ()


def test_experts_on_fp8_without_a_list_are_refused() -> None:
    with pytest.raises(ConfigError, match="moe_quant_algo NVFP4"):
        parse({key: value for key, value in on_fp8().items() if key != "quantized_layers"})


def test_a_dense_model_on_an_fp8_base_loads_both() -> None:
    module = "model.layers.0.{}_proj"
    document = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 16],
                "ignore": ["*.up_proj"], "quant_algo": "MIXED_PRECISION", "moe_quant_algo": "NVFP4",
                "quantized_layers": {module.format("down"): {"quant_algo": "NVFP4", "group_size": 16}}}  # fmt: skip
    second = {key: document[key] for key in ("quant_algo", "quantized_layers")} | {"exclude_modules": ["*.up_proj"]}
    checkpoint = open_skeleton("\n".join([
        "config " + json.dumps({"quantization_config": document}),
        "file hf_quant_config.json " + json.dumps({"quantization": second, "producer": {"name": "modelopt"}}),
        *lines(module.format("down"), 32, 64, "NVFP4"),
        f"{module.format('up')}.weight F8_E4M3 [32, 64]", f"{module.format('up')}.weight_scale_inv F32 [2, 4]",
    ]))  # fmt: skip

    assert checkpoint.problems == ()
    assert "F8L103" not in {finding.code for finding in checkpoint.verify("headers").findings}
    params = checkpoint.plan().params
    assert params[f"{module.format('down')}.input_global_scale"].shape == (1,)
    assert params[f"{module.format('up')}.weight_scale"].shape == (2, 4)
