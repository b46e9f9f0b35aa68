"""The eight places of a quantization configuration, which of several counts, and that a disagreement is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fp8load
from fp8load.checkpoint import Checkpoint
from fp8load.errors import Fp8LoadError
from fp8load.formats.locate import configurations
from fp8load.source.memory import MemorySource
from oracle.catalog import FOLDER
from oracle.comfyui import file_of, fp8, marker, metadata_of
from oracle.dequantize import Stored

CT: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "config_groups": {"g": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": "tensor"}}},
}
MODELOPT = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}}
LAYER = fp8(np.random.default_rng(0), (32, 32))
NAMES = "a", "b"


def opened(metadata: dict[str, str] | None = None, extra: dict[str, Stored] | None = None, **files: Any) -> Checkpoint:
    """Two layers with one scale each, and JSON files by their names without .json."""
    tensors = {name: tensor for module in NAMES for name, tensor in LAYER.named(module).items()} | (extra or {})
    content = {f"{name}.json": json.dumps(document).encode() for name, document in files.items()}
    return fp8load.open(MemorySource({"model.safetensors": file_of(tensors, metadata), **content}))


SAID = {"a": "float8_e4m3fn", "b": "float8_e4m3fn"}
MARKERS = {f"{name}.comfy_quant": marker(said) for name, said in SAID.items()}

PLACES: dict[str, Checkpoint] = {
    "config.json quantization_config": opened(config={"quantization_config": CT}),
    "config.json compression_config": opened(config={"compression_config": CT}),
    "config.json text_config.quantization_config": opened(config={"text_config": {"quantization_config": CT}}),
    "quantization_config.json": opened(quantization_config=CT),
    "safetensors __metadata__ _quantization_metadata": opened(metadata_of(SAID)),
    "safetensors tensors *.comfy_quant": opened(extra=MARKERS),
    "safetensors __metadata__ _quantization_metadata and tensors *.comfy_quant": opened(metadata_of(SAID), MARKERS),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_configuration_is_found_in_each_place_and_the_weights_are_the_same(place: str) -> None:
    checkpoint = PLACES[place]

    assert checkpoint.format.place == checkpoint.summary().format_place == place
    assert [located.place for located in configurations(checkpoint.index)] == [place]
    assert np.array_equal(checkpoint.dequantize("a").numpy(), LAYER.weight)
    assert checkpoint.verify().ok


def test_a_null_in_one_place_does_not_hide_another() -> None:
    checkpoint = opened(config={"quantization_config": None, "compression_config": CT})

    assert checkpoint.format.place == "config.json compression_config"


def test_the_order_of_all_places() -> None:
    everywhere = opened(
        metadata_of(SAID), config={"quantization_config": CT, "compression_config": CT,
                                   "text_config": {"quantization_config": CT}},
        hf_quant_config=MODELOPT, quantization_config=CT, quanto_qmap={}, quant_model_description={"a.weight": "FLOAT"},
        params={"quantization": {"qformat_weight": "fp8_e4m3"}},
    )  # fmt: skip

    assert [located.place for located in configurations(everywhere.index)] == [
        "safetensors __metadata__ _quantization_metadata", "config.json quantization_config",
        "config.json compression_config", "config.json text_config.quantization_config", "hf_quant_config.json",
        "quantization_config.json", "quant_model_description.json", "quanto_qmap.json",
    ]  # fmt: skip


def conflicts(checkpoint: Checkpoint) -> list[Any]:
    return [finding for finding in checkpoint.verify().findings if finding.code == "F8L103"]


@pytest.mark.parametrize(
    ("checkpoint", "used", "why"),
    [(opened(config={"quantization_config": CT}, hf_quant_config=MODELOPT), "config.json quantization_config",
      "config.json is read first"),
     (opened(metadata_of(SAID), hf_quant_config=MODELOPT), "safetensors __metadata__ _quantization_metadata",
      "written together with them"),
     (opened(quantization_config=CT, hf_quant_config=MODELOPT), "hf_quant_config.json",
      "config.json has no quantization configuration")],
)  # fmt: skip
def test_two_that_disagree_are_reported_with_the_one_that_is_used_and_why(
    checkpoint: Checkpoint, used: str, why: str
) -> None:
    found = conflicts(checkpoint)

    assert [finding.severity for finding in found] == ["error"]
    assert checkpoint.format.place == used
    assert used in found[0].expected
    assert f"{used} is used: " in found[0].hint
    assert why in found[0].hint


def test_two_that_agree_are_not_reported() -> None:
    text = {"text_config": {"quantization_config": CT}}

    assert conflicts(opened(config={"quantization_config": CT, **text}, quantization_config=CT)) == []
    assert conflicts(opened(metadata_of(SAID), MARKERS, config={"quantization_config": CT})) == []


@pytest.mark.parametrize(
    "files", [{"hf_quant_config": {"quant_method": "magic"}}, {"config": {"compression_config": [1]}}]
)
def test_one_that_cannot_be_read_beside_one_that_can_is_a_warning(files: dict[str, Any]) -> None:
    config = {**files.pop("config", {}), "quantization_config": CT}
    checkpoint = opened(config=config, **files)

    loud = [finding for finding in checkpoint.verify().findings if finding.severity != "info"]
    assert [(finding.code, finding.severity) for finding in loud] == [("F8L103", "warning")]
    assert checkpoint.verify().summary.crashed == []
    assert checkpoint.plan().load()["a"]


TORCHAO = FOLDER / "ao-llamaodd-fp8wo"


def torchao(tmp_path: Path, *, replaced: tuple[bytes, bytes] = (b"", b"")) -> Checkpoint:
    """A checkpoint of torchao whose config.json has lost its quantization_config; bytes of equal length replaced."""
    for path in TORCHAO.glob("model*"):
        (tmp_path / path.name).write_bytes(path.read_bytes().replace(*replaced))
    config = json.loads((TORCHAO / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    return fp8load.open(tmp_path)


def test_torchaos_metadata_is_read_where_nothing_else_says_it(tmp_path: Path) -> None:
    announced, checkpoint = fp8load.open(TORCHAO), torchao(tmp_path)

    assert [located.place for located in configurations(announced.index)] == ["config.json quantization_config"]
    assert announced.format.name == "torchao"
    assert (checkpoint.format.name, checkpoint.format.place) == (
        "torchao_metadata", "safetensors __metadata__ of torchao",
    )  # fmt: skip
    assert [f for f in checkpoint.verify("weights").findings if f.severity != "info"] == []
    expected = dict(announced.plain_tensors())
    for name, tensor in checkpoint.plain_tensors():
        assert torch.equal(tensor, expected.pop(name))
    assert expected == {}


@pytest.mark.parametrize(
    ("replaced", "named"),
    [((b"Float8Tensor", b"NotYetTensor"), "NotYetTensor"),
     ((b'"act_quant_kwargs\\": null', b'"act_quant_kwargs\\": {}  '), "act_quant_kwargs"),
     ((b"[1, 144]", b"[9, 144]"), "9, 144"), ((b"[1, 144]", b"[1, 77] "), "1, 77"),
     ((b'"_data\\": \\"bfloat16\\"}}', b'"_data\\": \\"bfloat16\\"} '), "not valid JSON")],
)  # fmt: skip
def test_what_is_not_known_of_torchaos_metadata_is_refused(
    replaced: tuple[bytes, bytes], named: str, tmp_path: Path
) -> None:
    assert any(replaced[0] in path.read_bytes() for path in TORCHAO.glob("*.safetensors"))
    checkpoint = torchao(tmp_path, replaced=replaced)

    with pytest.raises(Fp8LoadError, match=named) as caught:
        checkpoint.plan()
    assert "_proj.weight" in str(caught.value)
    assert not checkpoint.verify().ok


def test_ascends_description_is_located_and_what_is_not_known_of_it_is_said() -> None:
    checkpoint = opened(quant_model_description={"a.weight": "W8A8_MXFP8"})

    assert [located.place for located in configurations(checkpoint.index)] == ["quant_model_description.json"]
