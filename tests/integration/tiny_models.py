"""Tiny checkpoints in FP8 of what transformers saves, and transformers' own model with the same numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import fp8load
from archs.tiny import BLOCK, sizes_of, written

SETTINGS = ("quantization_config", "auto_map")


def quantized(model_type: str, folder: Path) -> Path:
    """A tiny model with random numbers, its linear layers in FP8 with blocks of 2 x 2."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **sizes_of(model_type))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    tiny = written(model_type).quantized()
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        scaled = f"{name}_scale_inv" in tiny.tensors
        tensors.update(in_blocks(name, tensor) if scaled else {name: tensor})
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(dict(tiny.config)))
    return folder


def quantized_embedding(model_type: str, folder: Path, *, tied: bool = False) -> Path:
    """The same, and its embedding in FP8 too; `tied`: the head is the embedding."""
    quantized(model_type, folder)
    tensors, name = load_file(folder / "model.safetensors"), "model.embed_tokens.weight"
    tensors.update(in_blocks(name, tensors[name]))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["modules_to_not_convert"].remove("model.embed_tokens")
    if tied:
        del tensors["lm_head.weight"]
        config["tie_word_embeddings"] = True
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def in_blocks(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """A weight [N, K] as FP8 codes, and the scale of each block."""
    num_rows, num_cols = weight.shape
    padded = torch.nn.functional.pad(weight.float(), (0, -num_cols % BLOCK, 0, -num_rows % BLOCK))
    blocks = padded.unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK))
    scale = blocks.abs().amax((1, 3)).clamp(min=1e-6) / 448
    codes = (blocks / scale[:, None, :, None]).flatten(2, 3).flatten(0, 1)[:num_rows, :num_cols]
    return {name: codes.contiguous().to(torch.float8_e4m3fn), f"{name}_scale_inv": scale}


def plain_folder(source: Path, folder: Path) -> Path:
    """The checkpoint written unquantized, in float32."""
    folder.mkdir()
    document = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in document.items() if k not in SETTINGS}))
    generation = source / "generation_config.json"
    if generation.exists():
        (folder / generation.name).write_bytes(generation.read_bytes())
    tensors = {name: tensor.contiguous() for name, tensor in fp8load.open(source).plain_tensors()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def plain_model(source: Path, folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """transformers' own model with the numbers of a checkpoint."""
    model, info = AutoModelForCausalLM.from_pretrained(
        plain_folder(source, folder), dtype=dtype, output_loading_info=True
    )
    assert {key: found for key, found in info.items() if found} == {}
    return model


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    """The error as a part of what is expected."""
    return ((got.float() - expected.float()).norm() / expected.float().norm()).item()


def shapes(named: Iterable[tuple[str, torch.Tensor]]) -> dict[str, tuple[torch.dtype, torch.Size]]:
    """Dtype and shape of each."""
    return {name: (tensor.dtype, tensor.shape) for name, tensor in named}
