"""Where rules turn: exactly half, the second piece of a tensor, a fault that another does not explain."""

from __future__ import annotations

import numpy as np
import pytest

from fp8load.checkpoint import Checkpoint
from fp8load.errors import NetworkError, Problem, Severity, VerifyError
from fp8load.index.build import build_index
from fp8load.rules.findings import finding_of, grouped, pattern_of
from fp8load.rules.samples import BLOCK, LLAMA, LLAMA_CONFIG, QUANTIZED
from fp8load.source.memory import MemorySource
from rules.examples import checkpoint_of, written

FILE = "model.safetensors"
WEIGHT, SCALE = "model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.down_proj.weight_scale_inv"
EMBEDDING = "model.embed_tokens.weight  BF16  [1024, 256]\n"


def findings(ckpt: Checkpoint, code: str, level: str = "weights"):
    return [finding for finding in ckpt.verify(level).findings if finding.code == code]


def poked(tensor: str, element: int, value: bytes) -> Checkpoint:
    """One quantized module in which one element of `tensor` has these bytes."""
    files = written(BLOCK + QUANTIZED, {})
    (meta,) = [meta for name, meta in checkpoint_of(BLOCK + QUANTIZED).index.tensors.items() if name == tensor]
    data, at = bytearray(files[FILE]), meta.begin + element * len(value)
    data[at : at + len(value)] = value
    return checkpoint_of(BLOCK + QUANTIZED, files={FILE: bytes(data)})


def test_the_same_problem_twice_counts_once():
    problem = Problem(code="F8L201", message="no scale", tensor="m.weight")

    (group,) = grouped([problem, problem])

    assert finding_of(group, {}, None).count == 1


def test_faults_of_two_files_are_two_findings():
    two = BLOCK + QUANTIZED + "model.norm.weight  BF16  [256]  @ model-2.safetensors\n"
    ckpt = checkpoint_of(two, files={FILE: b"", "model-2.safetensors": b""})

    assert [finding.file for finding in findings(ckpt, "F8L002")] == ["model-2.safetensors", FILE]


def test_a_fourth_pattern_is_counted():
    names = [f"{letter}.weight_{letter}" for letter in "abcd"]

    assert pattern_of(names[:3]) == ", ".join(names[:3])
    assert pattern_of(names) == ", ".join(names[:3]) + " and 1 more"


def test_the_error_of_a_report_says_how_many_others_there_are():
    no_scales = "\n".join(line for line in LLAMA.splitlines() if "weight_scale_inv" not in line)

    with pytest.raises(VerifyError, match="6 more errors"):
        checkpoint_of(no_scales).verify("headers").raise_for_errors()


def test_a_file_that_is_lost_does_not_explain_what_is_wrong_with_stored_tensors():
    wrong = LLAMA.replace("[1024, 256]", "[256, 1024]  @ model-2.safetensors")
    files = {FILE: -100, "model.safetensors.index.json": None}

    (finding,) = findings(checkpoint_of(wrong, files=files), "F8L506", "headers")

    assert finding.explained_by is None


def test_a_broken_stray_file_explains_nothing():
    lost = "".join(line for line in LLAMA.splitlines(keepends=True) if not line.startswith("model.norm"))
    ckpt = checkpoint_of(lost, files={"consolidated.safetensors": b""})

    (stray,), (finding,) = findings(ckpt, "F8L002"), findings(ckpt, "F8L109")

    assert stray.severity is Severity.WARNING
    assert finding.explained_by is None


def test_a_file_that_became_shorter_is_an_error_of_the_source_and_no_scale_of_ones():
    files = written(BLOCK + QUANTIZED, {})
    source = MemorySource(files)
    ckpt = Checkpoint(source, build_index(source))
    source._files[FILE] = files[FILE][:-4]

    with pytest.raises(NetworkError, match="shorter than its header said") as caught:
        ckpt.verify("scales")
    assert SCALE in str(caught.value)


def test_the_first_bad_element_is_named_by_its_place_in_the_whole_tensor(monkeypatch):
    monkeypatch.setattr("fp8load.rules.scales.CHUNK", 4)
    (scale,) = findings(poked(SCALE, 3, np.float32("nan").tobytes()), "F8L701")
    (negative,) = findings(poked(SCALE, 2, np.float32(-1).tobytes()), "F8L702")
    monkeypatch.setattr("fp8load.rules.weights.CHUNK", 1000)
    (weight,) = findings(poked(WEIGHT, 2345, b"\x7f"), "F8L801")

    assert scale.got == "1 NaN, the first at [1, 1]"
    assert negative.got == "1 negative, the first at [1, 0]"
    assert weight.got == "1 of 65,536, the first at element 2,345"


def test_of_many_bad_codes_the_first_is_named(monkeypatch):
    monkeypatch.setattr("fp8load.rules.weights.CHUNK", 1000)
    ckpt = checkpoint_of(BLOCK + QUANTIZED, {WEIGHT: float("nan")})

    assert findings(ckpt, "F8L801")[0].got == "65,536 of 65,536, the first at element 0"


def test_of_two_members_that_differ_neither_is_the_usual_one():
    mixed = (
        BLOCK + QUANTIZED.replace("down_proj", "gate_proj") + "model.layers.0.mlp.up_proj.weight  BF16  [256, 256]\n"
    )

    (finding,) = findings(checkpoint_of(mixed), "F8L306")

    assert finding.tensors == ["model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"]


def test_a_fused_pair_of_a_known_family_is_looked_at_too():
    up = "model.layers.0.mlp.up_proj"
    lines = [line for line in LLAMA.replace("{gate,up}", "gate").splitlines() if "up_proj" not in line]
    mixed = "\n".join([*lines, f"{up}.weight  BF16  [512, 256]"])

    (finding,) = findings(checkpoint_of(mixed), "F8L306")

    assert finding.modules == ["model.layers.0.mlp.gate_up_proj"]


def test_configurations_may_disagree_about_what_is_not_quantized_anyway():
    config = (
        'config {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}}\n'
    )
    other = 'file hf_quant_config.json {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}\n'
    module = QUANTIZED.replace("weight_scale_inv  F32      [2, 2]", "weight_scale      F32      []")
    head = "lm_head.weight  BF16  [1024, 256]\n"

    assert findings(checkpoint_of(config + other + module + head), "F8L103") == []


def test_a_dynamic_cache_needs_no_scales():
    group = {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}

    def skeleton(dynamic: str) -> str:
        cache = f'{{"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": {dynamic}}}'
        groups = str(group).replace("'", '"')
        return (
            f'config {{"quantization_config": {{"quant_method": "compressed-tensors", "kv_cache_scheme": {cache}, '
            f'"config_groups": {{"group_0": {groups}}}}}}}\n'
            "m.k_proj.weight F8_E4M3 [64, 64]\nm.k_proj.weight_scale F32 [64, 1]\n"
        )

    assert findings(checkpoint_of(skeleton("true")), "F8L901") == []
    assert len(findings(checkpoint_of(skeleton("false")), "F8L901")) == 1


def test_a_configuration_whose_layers_are_all_unquantized_is_not_blamed_on_the_embedding():
    ckpt = checkpoint_of(BLOCK + EMBEDDING + "model.layers.0.mlp.down_proj.weight  BF16  [256, 256]\n")

    assert [finding.tensors for finding in findings(ckpt, "F8L102")] == [[WEIGHT]]


def test_an_ignore_entry_may_name_a_part_of_the_family_that_is_not_stored():
    config = LLAMA_CONFIG.replace('"model_type": "llama"', '"model_type": "gemma3_text", "head_dim": 128')
    entries = BLOCK.replace("[128, 128]}", '[128, 128], "modules_to_not_convert": ["vision_tower", "vision_towel"]}')
    ckpt = checkpoint_of(config + entries + QUANTIZED)

    assert [finding.modules for finding in findings(ckpt, "F8L301")] == [["vision_towel"]]
