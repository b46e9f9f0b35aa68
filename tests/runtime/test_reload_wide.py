"""Weights of 16 and 32 bits into a quantized model: quantized whole, then cut; every slot with a scale of its own."""

from __future__ import annotations

import pytest
import torch

import fp8load
from fp8load.contract import Arrival
from fp8load.errors import LoadError
from fp8load.runtime.model import LoadedModel
from fp8load.runtime.quantize_weight import quantize_weight
from runtime.updating import FOLDER, addresses, bytes_of, frozen, held, outputs, prepared, stored

NAMES = (
    "ct-llama128-fp8-static", "ct-phi3-fp8-static-kv", "ct-llamaodd-fp8-dynamic", "ct-llamaodd-fp8-block",
    "hf-llama256-fp8-block", "hf-qwen3moe-fp8-block32", "ct-mixtral-fp8-dynamic", "mo-llamaodd-fp8-pbwo",
    "mo-llama128-mxfp8", "ct-gptoss-fp8-dynamic", "hf-llama128-fbgemm", "quanto-llama128-fp8wo",
)  # fmt: skip
LLAMA, W = "ct-llama128-fp8-static", "model.layers.0.self_attn.k_proj.weight"


def wide_of(model: LoadedModel, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    """A random weight for every one that may come wide, whole, by its stored name."""
    generator = torch.Generator().manual_seed(5)
    terms = [term for term in model.plan.contract.terms.values() if term.online]
    return {term.name: (torch.randn(term.shape, generator=generator) * 0.02).to(dtype) for term in terms}


@pytest.mark.parametrize("name", NAMES)
def test_a_wide_weight_becomes_the_codes_and_scales_of_its_scheme_in_place(name: str) -> None:
    model = fp8load.load(FOLDER / name)
    outputs(model)
    places, wide = (addresses(model), prepared(model)), wide_of(model)
    assert wide

    model.reload(wide)

    assert (addresses(model), prepared(model)) == places
    checked = 0
    for info in model.plan.lowered.modules.values():
        weight = wide.get(info.tensors["weight"].name)
        if info.scheme is None or weight is None:
            continue
        made = quantize_weight(weight, info.scheme.weight, rounding=info.scheme.rounding)
        for role, value in (("weight", made.codes), ("weight_scale", made.scale)):
            for copy in model.plan.copies_of(info.tensors[role].name):
                param = held(model)[copy.param]
                box = param[copy.dst.slices()]
                piece = value.reshape(info.tensors[role].shape)[copy.src.slices()] if copy.view is None else None
                assert piece is None or bytes_of(box) == bytes_of(piece.to(box.dtype)), copy
                checked += 1
    assert checked or any("experts" in one for one in wide)
    outputs(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_float_of_16_or_32_bits_is_taken(dtype: torch.dtype) -> None:
    model = fp8load.load(FOLDER / LLAMA, backend="reference")
    weight = torch.randn(64, 128).to(dtype)

    model.reload({W: weight})

    layer = model["model.layers.0.self_attn.qkv_proj"]
    made = layer.dequantize()[layer.weight.slot_rows[1]]
    torch.testing.assert_close(made, weight.float(), rtol=2**-4, atol=float(weight.abs().max()) / 448 * 2**-9)


@pytest.mark.parametrize("name", ["ct-llama128-fp8-static", "ct-phi3-fp8-static-kv", "ct-llamaodd-fp8-dynamic"])
def test_each_rank_has_its_piece_of_the_whole_that_was_quantized(name: str) -> None:
    whole = fp8load.load(FOLDER / name)
    wide = wide_of(whole)
    whole.reload(wide)

    for rank in range(2):
        part = fp8load.load(FOLDER / name, tp_rank=rank, tp_size=2)
        part.reload(wide)
        for copy in part.plan.copies:
            twin = next(one for one in whole.plan.copies if (one.source, one.slot) == (copy.source, copy.slot))
            held_here, held_there = held(part)[copy.param], held(whole)[twin.param]
            lo = tuple(a - b + c for a, b, c in zip(copy.src.lo, twin.src.lo, twin.dst.lo, strict=False))
            if len(lo) != held_there.dim():
                continue  # scalars, which every rank has
            place = tuple(slice(begin, begin + size) for begin, size in zip(lo, copy.src.shape, strict=True))
            assert bytes_of(held_here[copy.dst.slices()]) == bytes_of(held_there[place]), copy


def test_experts_of_another_rank_are_left_out() -> None:
    name = "hf-qwen3moe-fp8-block32"
    whole, part = fp8load.load(FOLDER / name), fp8load.load(FOLDER / name, ep_rank=1, ep_size=2)
    wide = wide_of(whole)

    whole.reload(wide)
    part.reload(wide)

    experts = next(key for key in part if key.endswith("experts"))
    count = len(part[experts].experts)
    for stack in ("w13", "w2"):
        for role in ("weight", "weight_scale"):
            here = part[experts].get_parameter(f"{stack}.{role}").detach()
            there = whole[experts].get_parameter(f"{stack}.{role}").detach()[count:]
            assert bytes_of(here) == bytes_of(there)


def test_static_scales_of_the_input_stay() -> None:
    model = fp8load.load(FOLDER / LLAMA)
    before = {name: data for name, data in frozen(model).items() if name.endswith("input_scale")}

    model.reload(wide_of(model))

    assert before
    assert {name: frozen(model)[name] for name in before} == before


def test_a_whole_update_of_wide_weights_makes_a_mixed_model_one_again() -> None:
    model = fp8load.load(FOLDER / LLAMA)
    wide = wide_of(model)
    with pytest.raises(LoadError):
        model.reload([{W: wide[W]}, {"nonsense": torch.ones(1)}])
    assert model.mixed == ("model.layers.0.self_attn.qkv_proj",)
    plain = {name: tensor for name, tensor in stored(FOLDER / LLAMA).items()
             if model.plan.contract.terms[name].role == "plain"}  # fmt: skip

    model.reload({**wide, **plain})

    assert model.mixed == ()


def test_an_unquantized_checkpoint_is_quantized_to_the_schemes_of_the_model(tmp_path) -> None:
    from safetensors.torch import save_file

    model = fp8load.load(FOLDER / LLAMA)
    contract = model.plan.contract
    wide = {**wide_of(model), **{n: t for n, t in stored(FOLDER / LLAMA).items() if contract.terms[n].role == "plain"}}
    save_file(wide, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = (FOLDER / LLAMA / "config.json").read_text()
    import json

    document = json.loads(config)
    del document["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(document))
    twin = fp8load.load(FOLDER / LLAMA)

    twin.reload(wide)
    model.reload(tmp_path)

    assert frozen(model) == frozen(twin)


def test_a_scheme_that_the_receiver_does_not_quantize_to_refuses_wide_weights_and_says_what_to_send() -> None:
    model = fp8load.load(FOLDER / "ct-llama128-nvfp4")
    name = "model.layers.0.mlp.down_proj.weight_packed"
    term = model.plan.contract.terms[name]

    with pytest.raises(LoadError, match=r"FILL723[\s\S]*send codes and scales"):
        model.reload({name: torch.zeros(term.shape, dtype=torch.bfloat16)})


def test_a_scale_that_comes_after_its_weight_was_quantized_is_refused() -> None:
    model = fp8load.load(FOLDER / LLAMA)
    scale = W.replace("weight", "weight_scale")

    with pytest.raises(LoadError, match=rf"FILL724[\s\S]*{scale}"):
        model.reload([{W: torch.ones(64, 128)}, {scale: torch.ones(1)}])


def test_the_contract_says_what_becomes_of_a_tensor() -> None:
    contract = fp8load.load(FOLDER / LLAMA).plan.contract

    assert contract.arrival(W, "F8_E4M3") is Arrival.STORED
    assert contract.arrival(W, "BF16") is Arrival.QUANTIZED
    assert contract.arrival(W, "F64") is None
    assert contract.arrival(W.replace("weight", "weight_scale"), "F32") is Arrival.WIDENED
