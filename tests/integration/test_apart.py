"""Layers that are not fused: each module of the checkpoint by its own name, bit for bit what the file says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import fp8load
from fp8load.errors import PlanError
from fp8load.runtime.linear import ScaledLinear
from integration.tiny_models import quantized
from oracle.catalog import FOLDER
from oracle.mixtures import CORRUPT

NAMES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir() and path.name != CORRUPT)


@pytest.mark.parametrize("name", NAMES)
def test_each_layer_is_its_module_on_disk(name: str) -> None:
    checkpoint = fp8load.open(FOLDER / name)

    model = checkpoint.plan(fuse=False).load(backend="reference")

    for module, layer in model.items():
        if isinstance(layer, ScaledLinear):
            assert torch.equal(layer.dequantize(), checkpoint.dequantize(module)), module
    plain = {key: value for key, value in model.tensors.items() if not key.endswith(("k_scale", "v_scale"))}
    assert plain.keys() <= checkpoint.index.tensors.keys()


def test_members_of_a_group_may_then_be_stored_in_different_ways(tmp_path: Path) -> None:
    """What no fused layer can hold: gate in BF16 beside up in FP8."""
    folder = quantized("llama", tmp_path / "quantized")
    tensors, at = load_file(folder / "model.safetensors"), "model.layers.0.mlp.gate_proj"
    tensors[f"{at}.weight"] = tensors[f"{at}.weight"].bfloat16()
    del tensors[f"{at}.weight_scale_inv"]
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["modules_to_not_convert"].append(at)
    (folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(PlanError, match="F8L306"):
        fp8load.open(folder).plan()
    model = fp8load.open(folder).plan(fuse=False).load()

    assert torch.equal(model.tensors[f"{at}.weight"], tensors[f"{at}.weight"])
    assert "model.layers.0.mlp.up_proj" in model
