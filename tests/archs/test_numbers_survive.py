"""What is loaded and what is written back has the numbers that transformers wrote."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import fp8load
from archs.tiny import sizes_of

FAMILIES = (
    "deepseek_v2", "deepseek_v32", "glm4_moe", "llama4_text", "qwen2_moe", "qwen3_5_text", "qwen3_5_moe_text",
    "nemotron_h", "granitemoehybrid", "gemma4_text", "ernie4_5_moe", "hunyuan_v1_moe", "phimoe", "olmoe", "jamba",
    "mimo_v2_flash", "minimax_m2", "lfm2_moe", "exaone_moe", "falcon_h1", "qwen4_exp_text", "beam", "flint",
    "dots3_note_text", "inkling_text", "inkling2_text", "lfm3", "lfm2", "zamba2",
)  # fmt: skip


def saved(model_type: str, folder: Path) -> torch.nn.Module:
    """A tiny model with random numbers, and its checkpoint in `folder`."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **sizes_of(model_type))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("model_type", FAMILIES)
def test_transformers_loads_plain_tensors_as_the_model_that_it_saved(model_type: str, tmp_path: Path) -> None:
    model = saved(model_type, tmp_path / "saved")
    again = tmp_path / "plain"
    again.mkdir()
    shutil.copy(tmp_path / "saved" / "config.json", again)
    plain = fp8load.open(tmp_path / "saved").plain_tensors()
    tensors = {name: tensor.contiguous() for name, tensor in plain}
    save_file(tensors, again / "model.safetensors", metadata={"format": "pt"})

    loaded, info = AutoModelForCausalLM.from_pretrained(again, dtype=torch.bfloat16, output_loading_info=True)

    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    found = loaded.state_dict()
    assert [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, found[name])] == []


def test_each_part_of_qwen3_5s_linear_attention_is_split_by_itself(tmp_path: Path) -> None:
    saved("qwen3_5_text", tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    at = "model.layers.0.linear_attn."
    qkv = stored[f"{at}in_proj_qkv.weight"].split((24, 24, 72))
    ba = [stored[f"{at}in_proj_{name}.weight"] for name in "ba"]

    for rank in range(2):
        tensors = fp8load.load(tmp_path, device="cpu", tp_rank=rank, tp_size=2).tensors
        for name, parts in (("in_proj_qkv", qkv), ("in_proj_ba", ba)):
            assert torch.equal(tensors[f"{at}{name}.weight"], torch.cat([part.chunk(2)[rank] for part in parts]))


def test_llama4s_experts_are_split_as_rows_although_they_lie_columns_first(tmp_path: Path) -> None:
    saved("llama4_text", tmp_path)
    at = "model.layers.1.feed_forward.experts."
    gate, up = load_file(tmp_path / "model.safetensors")[f"{at}gate_up_proj"].mT.chunk(2, dim=1)

    for rank in range(2):
        w13 = fp8load.load(tmp_path, device="cpu", tp_rank=rank, tp_size=2).tensors[f"{at}w13.weight"]
        assert torch.equal(w13, torch.cat([gate.chunk(2, dim=1)[rank], up.chunk(2, dim=1)[rank]], dim=1))
