"""Published configurations over skeletons of their models: every layer that is claimed is stored so, and plans.

What a configuration claims of a matrix is how the skeleton stores it: what follows is that claims fit together, for
the members of a fused layer, for all experts of a layer, and for two files that describe one checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from benchmarks.giants import CENSUS, GIANTS, config_of, shrunk
from fp8load.checkpoint import Checkpoint
from fp8load.dtypes import DType
from fp8load.formats.base import CheckpointFormat, Claimed
from fp8load.formats.locate import locate, read_format
from fp8load.patterns import expand
from fp8load.scheme import LinearScheme, Role, scale_shape
from sketch import open_skeleton

FILES = ("config.json", "hf_quant_config.json", "quantization_config.json")
CONFIGS = CENSUS.parent / "configs"
FOLDERS = {path.name: path for folder in (CONFIGS, CENSUS) for path in sorted(folder.iterdir()) if path.is_dir()}
SHAPES: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "deepseek_v3": GIANTS["deepseek-v3"].lines, "deepseek_v32": GIANTS["glm-5-fp8"].lines,
    "kimi_k2": GIANTS["kimi-k2"].lines, "glm_moe_dsa": GIANTS["glm-5-fp8"].lines,
    "qwen3_moe": GIANTS["qwen3-235b-fp8"].lines, "minimax_m2": GIANTS["minimax-m2.5"].lines,
    "kimi_k25": lambda config: ("language_model." + line for line in GIANTS["kimi-k2"].lines(config["text_config"])),
}  # fmt: skip
"""Families whose tensors are known, by the lines of their skeletons."""


def files_of(model: str) -> dict[str, dict[str, Any]]:
    """The JSON files of a model."""
    folder = FOLDERS[model]
    return {name: json.loads((folder / name).read_text()) for name in FILES if (folder / name).exists()}


def formats_of(model: str) -> list[CheckpointFormat]:
    """What each place says, the one that counts first."""
    return [read_format(located) for located in locate(files_of(model))]


QUANTIZED = [model for model in FOLDERS if list(locate(files_of(model)))]
COVERED = [model for model in QUANTIZED
           if files_of(model).get("config.json", {}).get("model_type") in SHAPES]  # fmt: skip


@pytest.mark.parametrize("model", QUANTIZED)
def test_every_place_of_a_configuration_is_read_without_complaint(model: str) -> None:
    for fmt in formats_of(model):
        assert fmt.problems == ()


def stored(name: str, shape: list[int], scheme: LinearScheme, fmt: CheckpointFormat) -> Iterator[str]:
    """The lines of a matrix that a scheme describes, under the format's names."""
    names = {role: suffix for suffix, role in reversed([*fmt.suffixes.items()])}
    names |= dict(scheme.suffixes)
    spec, packed = scheme.weight, scheme.weight.dtype.bits < 8
    words = spec.dtype is DType.I4
    columns = shape[1] * spec.dtype.bits // (32 if words else 8)
    weight = names.get(Role.WEIGHT, "weight") if packed else "weight"
    dtype = "I32" if words else "U8" if packed else spec.dtype
    yield f"{name}.{weight} {dtype} [{shape[0]}, {columns}]"
    scale = "F8_E4M3" if scheme.second_level else spec.scale_dtype or "F32"
    yield f"{name}.{names[Role.WEIGHT_SCALE]} {scale} {list(scale_shape(spec.granularity, tuple(shape)))}"
    for wanted, role in ((scheme.second_level, Role.WEIGHT_GLOBAL_SCALE), (scheme.input_static, Role.INPUT_SCALE),
                         (scheme.input_global, Role.INPUT_GLOBAL_SCALE)):  # fmt: skip
        if wanted:
            suffix = names.get(role) or next(key for key, known in fmt.by_module.items() if role in known.roles)
            yield f"{name}.{suffix} F32 [1]"


def opened(model: str) -> Checkpoint:
    """A model with fewer layers and experts, stored as its configuration says."""
    files = files_of(model)
    config = shrunk(files["config.json"], 5, 4)
    fmt = formats_of(model)[0]
    lines = [f"config {json.dumps(config)}"]
    lines += [f"file {name} {json.dumps(document)}" for name, document in files.items() if name != "config.json"]
    for line in SHAPES[config["model_type"]](config):
        pattern, _, rest = line.partition(" ")
        dtype, _, shape = rest.partition(" ")
        for name in expand(pattern):
            module, _, last = name.rpartition(".")
            if dtype != "F8_E4M3" and last != "weight_scale_inv":
                lines.append(f"{name} {dtype} {shape}")
            elif last == "weight":
                claim = fmt.claim(module)
                quantized = isinstance(claim, Claimed)
                lines += stored(module, json.loads(shape), claim.scheme, fmt) if quantized else [f"{name} BF16 {shape}"]
    return open_skeleton("\n".join(lines))


@pytest.mark.parametrize("model", COVERED)
def test_a_model_that_is_stored_as_its_configuration_says_is_lowered_and_planned(model: str) -> None:
    checkpoint = opened(model)
    sizes = {1, 8} & set(checkpoint.legal_tp())

    assert [problem for problem in checkpoint.problems if problem.refuses] == []
    assert any(info.scheme is not None for info in checkpoint.lowered.modules.values())
    assert 1 in sizes
    for size in sizes:
        assert checkpoint.plan(tp_rank=size - 1, tp_size=size).num_elements > 0


def test_models_are_covered_that_no_excerpt_shows() -> None:
    assert {
        "nvidia--DeepSeek-V3.1-NVFP4",
        "nvidia--GLM-5.2-NVFP4",
        "nvidia--Qwen3-235B-A22B-NVFP4",
        "moonshotai--Kimi-K2.5",
    } <= set(COVERED)
    assert config_of(GIANTS["deepseek-v3"])["model_type"] in SHAPES
