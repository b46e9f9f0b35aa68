"""Experts that a family publishes in one tensor for all: quantized, split, and given back under their own names."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import fp8load
from archs.remade import step3p5
from archs.remade_published import hy_v4, step3
from archs.tiny import BLOCK, Tiny, written, written_inside
from fp8load.plan.prove import prove_ranks
from sketch import open_skeleton

GEMMA = (("attention_k_eq_v", True), ("enable_moe_block", True), ("hidden_size_per_layer_input", 0),
         ("moe_intermediate_size", 24), ("num_experts", 4), ("num_global_key_value_heads", 1),
         ("top_k_experts", 2))  # fmt: skip
STACKED = {
    "granitemoe": lambda: written("granitemoe"),
    "gemma4_text": lambda: written("gemma4_text", GEMMA),
    "mistral4": lambda: written_inside("mistral3", "mistral4", "pixtral"),
    "step3p5": step3p5,
    "hy_v4": hy_v4,
    "step3": partial(step3, inside=False),
}


def in_blocks(tiny: Tiny) -> Tiny:
    """The same with blocks of FP8 for linear layers and for every stack, the scales beside the stack."""
    found = tiny.quantized()
    tensors = dict(found.tensors)
    stacks = [name for name, (_, shape) in tensors.items() if len(shape) == 3 and "conv" not in name]
    ignored = found.config["quantization_config"]["modules_to_not_convert"]
    for name in stacks:
        count, *sizes = tensors[name][1]
        tensors[name] = ("F8_E4M3", (count, *sizes))
        tensors[f"{name}_scale_inv"] = ("F32", (count, *(-(-size // BLOCK) for size in sizes)))
    holders = {above for name in stacks for above in (name.removesuffix(".weight"), name.rpartition(".")[0])}
    holders |= {name.rpartition(".")[0] for name in holders}
    quantization = {**found.config["quantization_config"],
                    "modules_to_not_convert": [name for name in ignored if name not in holders]}  # fmt: skip
    return Tiny({**found.config, "quantization_config": quantization}, tensors)


@pytest.mark.parametrize("name", STACKED)
def test_stacks_in_blocks_are_split_over_every_legal_rank(name: str) -> None:
    checkpoint = in_blocks(STACKED[name]()).open()

    assert [str(problem) for problem in checkpoint.problems] == []
    assert set(checkpoint.legal_tp()) >= {1, 2}
    for tp, ep in ((1, 1), (2, 1), (1, 2), (2, 2), (1, 4)):
        ranks = [checkpoint.plan(tp_rank=t, tp_size=tp, ep_rank=e, ep_size=ep) for t in range(tp) for e in range(ep)]
        prove_ranks([plan.layout for plan in ranks], checkpoint.tensors)
    experts = [spec for spec in checkpoint.plan(ep_rank=1, ep_size=2).layers.values() if spec.experts is not None]
    assert {spec.experts for spec in experts} == {range(2, 4)}
    assert {tuple(slot for slot, _ in spec.parts) for spec in experts} == {("gate", "up"), ("down",)}


@pytest.mark.parametrize("name", STACKED)
def test_the_unquantized_copy_has_the_published_names_and_shapes(name: str, tmp_path: Path) -> None:
    tiny = in_blocks(STACKED[name]())
    dtypes = {"BF16": torch.bfloat16, "F32": torch.float32, "F8_E4M3": torch.float8_e4m3fn}
    generator = torch.Generator().manual_seed(5)
    values = {key: torch.randn(shape, generator=generator).to(dtypes[dtype])
              for key, (dtype, shape) in tiny.tensors.items()}  # fmt: skip
    values |= {key: value.abs() + 0.5 for key, value in values.items() if key.endswith("_scale_inv")}
    save_file(values, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(dict(tiny.config)))

    plain = dict(fp8load.open(tmp_path).plain_tensors())

    assert {key: tuple(tensor.shape) for key, tensor in plain.items()} == {
        key: shape for key, (_, shape) in STACKED[name]().tensors.items()
    }
    for key, value in values.items():
        if value.dtype is torch.float8_e4m3fn and value.dim() == 3:
            scale = values[f"{key}_scale_inv"]
            spread = scale.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)
            assert torch.equal(plain[key], value.float() * spread)


def test_mistral_small_4_has_a_scale_for_each_expert_under_its_own_names() -> None:
    """Names and dtypes of its headers: a scale for each expert [E, 1, 1], one of the input for all."""
    inside = written_inside("mistral3", "mistral4", "pixtral")
    tensors = {
        name.replace("language_model.model.", "model.language_model."): it for name, it in inside.tensors.items()
    }
    at = "model.language_model.layers.1.mlp.experts"
    lines = [f"{name} {dtype} {list(shape)}" for name, (dtype, shape) in tensors.items() if not name.startswith(at)]
    for name, shape in (("gate_up_proj", [4, 48, 48]), ("down_proj", [4, 48, 24])):
        lines += [f"{at}.{name} F8_E4M3 {shape}", f"{at}.{name}_scale_inv BF16 [4, 1, 1]",
                  f"{at}.{name}_activation_scale BF16 []"]  # fmt: skip
    quantization = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None,
                    "modules_to_not_convert": ["self_attn", "shared_experts", "gate", "lm_head", "mlp.gate_proj",
                                               "mlp.up_proj", "mlp.down_proj", "vision_tower",
                                               "multi_modal_projector"]}  # fmt: skip
    config = json.dumps({**inside.config, "quantization_config": quantization})

    checkpoint = open_skeleton("\n".join([f"config {config}", *lines]))

    assert [str(problem) for problem in checkpoint.problems] == []
    layers = checkpoint.plan(tp_rank=1, tp_size=2, ep_rank=1, ep_size=2).layers
    assert set(layers) == {f"{at}.w13", f"{at}.w2"}
    assert str(layers[f"{at}.w13"].scheme) == "f8_e4m3 per tensor, scale BF16; input static per tensor"


def test_experts_of_two_kinds_that_are_counted_together_are_stacks_of_their_own(tmp_path: Path) -> None:
    tiny = written_inside("ernie4_5_vl_moe", "ernie4_5_vl_moe_text", "ernie4_5_vl_moe_vision")
    names = {"F32": torch.float32, "BF16": torch.bfloat16}
    stored = {name: torch.randn(shape).to(names[dtype]) for name, (dtype, shape) in tiny.tensors.items()}
    save_file(stored, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(tiny.config))

    loaded = fp8load.load(tmp_path, device="cpu", tp_rank=1, tp_size=2).tensors
    plain = dict(fp8load.open(tmp_path).plain_tensors())

    at = "model.layers.1.mlp."
    assert loaded[f"{at}text_moe.experts.w13.weight"].shape == (4, 24, 48)
    assert loaded[f"{at}vision_moe.experts.w13.weight"].shape == (4, 12, 48)
    gate = stored[f"{at}experts.6.gate_proj.weight"]
    assert torch.equal(loaded[f"{at}vision_moe.experts.w13.weight"][2][:6], gate[6:])
    assert {name: tensor.float().sum() for name, tensor in plain.items()} == {
        name: tensor.float().sum() for name, tensor in stored.items()
    }
