"""Mixtures of experts that real tools wrote: sound, loaded bit for bit on every rank, run, and refused damaged."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from oracle.catalog import FOLDER, config_of, expected_findings, reference_logits
from oracle.decoder import relative_error
from oracle.dequantize import tensors
from oracle.mixture_decoder import logits as decoded
from oracle.mixtures import CORRUPT, FORMS, NAMES, count_of, experts_of, output

ROUNDED = {"ct-qwen3moe-nvfp4"}
"""compressed-tensors rounds what it dequantizes of NVFP4 to BF16; the reference is of that."""


def opened(name: str):
    import fp8load

    return fp8load.open(FOLDER / name)


def same_bits(got: torch.Tensor, expected: np.ndarray, name: str) -> None:
    array = got.detach().float().contiguous().numpy()
    assert array.shape == expected.shape, name
    assert np.array_equal(array.view(np.uint32), np.ascontiguousarray(expected, np.float32).view(np.uint32)), name


def legal_ranks(name: str) -> list[tuple[int, int]]:
    """(tp, ep) sizes up to 4 that the checkpoint can be split over."""
    sizes = [size for size in range(1, 5) if count_of(FOLDER / name) % size == 0]
    return [(tp, ep) for tp in opened(name).legal_tp() if tp <= 4 for ep in sizes]


@pytest.mark.parametrize("name", NAMES)
def test_every_rank_loads_its_share_of_its_experts_bit_for_bit(name: str) -> None:
    checkpoint, whole = opened(name), experts_of(FOLDER / name)
    for tp, ep in legal_ranks(name):
        for tp_rank, ep_rank in np.ndindex(tp, ep):
            model = checkpoint.plan(tp_rank=tp_rank, tp_size=tp, ep_rank=ep_rank, ep_size=ep).load()
            for module, experts in whole.items():
                layer = model[module]
                share = len(experts) // ep
                assert layer.experts == range(ep_rank * share, (ep_rank + 1) * share)
                w13, w2 = layer.dequantize()
                for at, number in enumerate(layer.experts):
                    expert = experts[number]
                    size = len(expert.gate) // tp
                    mine = slice(tp_rank * size, (tp_rank + 1) * size)
                    where = f"{module}.{number} on tp {tp_rank} of {tp}, ep {ep_rank} of {ep}"
                    same_bits(w13[at], np.concatenate([expert.gate[mine], expert.up[mine]]), where)
                    same_bits(w2[at], expert.down[:, mine], where)


@pytest.mark.parametrize("name", NAMES)
def test_all_ranks_together_hold_every_element_equally_often(name: str) -> None:
    from fp8load.plan.prove import prove_ranks

    checkpoint = opened(name)
    for tp, ep in legal_ranks(name):
        layouts = [
            checkpoint.plan(tp_rank=tp_rank, tp_size=tp, ep_rank=ep_rank, ep_size=ep).layout
            for tp_rank, ep_rank in np.ndindex(tp, ep)
        ]
        prove_ranks(layouts, checkpoint.tensors)


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_have_the_shapes_that_engines_use(name: str) -> None:
    model = opened(name).plan().load()
    for module, experts in experts_of(FOLDER / name).items():
        size, hidden = experts[0].gate.shape
        layer = model[module]
        assert layer.w13.shape == (len(experts), 2 * size, hidden)
        assert layer.w2.shape == (len(experts), hidden, size)
        assert layer.w13.output_sizes == [size, size]


@pytest.mark.parametrize("name", NAMES)
def test_tokens_through_their_experts_give_the_weighted_sum(name: str) -> None:
    config, whole = config_of(FOLDER / name), experts_of(FOLDER / name)
    model = opened(name).plan().load()
    generator = torch.Generator().manual_seed(0)
    for module, experts in whole.items():
        x = torch.randn(2, 5, experts[0].gate.shape[1], generator=generator)
        ids = torch.randint(len(experts), (2, 5, 2), generator=generator)
        share = torch.rand(2, 5, 2, generator=generator)

        y = model[module](x, share, ids)

        expected = np.zeros(x.shape)
        for place in np.ndindex(2, 5):
            for k in range(2):
                token = x[place].numpy().astype(np.float64)
                expected[place] += share[place][k].item() * output(config, experts[ids[place][k]], token)
        assert y.dtype == torch.float32
        assert relative_error(y.detach().numpy(), expected) < 1e-5


def test_what_two_expert_parallel_ranks_compute_adds_up() -> None:
    checkpoint, module = opened("mo-qwen3moe-nvfp4"), "model.layers.1.mlp.experts"
    x = torch.randn(7, 128, generator=torch.Generator().manual_seed(1))
    ids, share = torch.arange(14).reshape(7, 2) % 4, torch.full((7, 2), 0.5)

    ranks = [checkpoint.plan(tp_rank=t, tp_size=2, ep_rank=e, ep_size=2).load() for t in range(2) for e in range(2)]
    parts = [rank[module](x, share, ids) for rank in ranks]

    torch.testing.assert_close(sum(parts), checkpoint.plan().load()[module](x, share, ids), rtol=1e-5, atol=1e-6)


def plain_model_logits(name: str, folder: Path, input_ids: np.ndarray, *, rounded: bool) -> np.ndarray:
    """Logits of the checkpoint written unquantized and opened by transformers, as anyone would.

    `rounded`: with weights rounded to BF16, as some references are.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # raised at import by packages of others
        from transformers import AutoModelForCausalLM

    plain = {key: value.contiguous() for key, value in opened(name).plain_tensors(dtype=torch.float32)}
    if rounded:
        stored = opened(name).lowered.modules
        quantized = {f"{module}.weight" for module, info in stored.items() if info.scheme is not None}
        plain = {key: value.bfloat16().float() if key in quantized else value for key, value in plain.items()}
    save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
    config = {key: value for key, value in config_of(FOLDER / name).items() if key != "quantization_config"}
    (folder / "config.json").write_text(json.dumps(config))
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert {key: found for key, found in report.items() if found} == {}
    with torch.no_grad():
        logits: np.ndarray = model.eval()(torch.from_numpy(input_ids)).logits.numpy()
    return logits


@pytest.mark.parametrize("name", NAMES)
def test_plain_tensors_are_what_transformers_loads_and_give_the_reference_logits(name: str, tmp_path: Path) -> None:
    input_ids, expected = reference_logits(FOLDER / name)

    assert relative_error(plain_model_logits(name, tmp_path, input_ids, rounded=name in ROUNDED), expected) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_a_decoder_over_the_loaded_layers_and_experts_gives_the_reference_logits(name: str, tmp_path: Path) -> None:
    import fp8load

    input_ids, expected = reference_logits(FOLDER / name)
    if name in ROUNDED:
        expected = plain_model_logits(name, tmp_path, input_ids, rounded=False)
    model = fp8load.load(FOLDER / name, device="cpu", backend="reference")

    assert relative_error(decoded(input_ids, model, config_of(FOLDER / name)), expected) < 1e-4


@pytest.mark.parametrize("name", [*NAMES, CORRUPT])
@pytest.mark.parametrize("level", ["headers", "scales", "weights"])
def test_verify_says_what_is_expected_and_nothing_else(name: str, level: str) -> None:
    expected = expected_findings(name)
    must, may = set(expected.get("must", ())), set(expected.get("may", ()))

    report = opened(name).verify(level)

    loud = {finding.code for finding in report.findings if finding.severity != "info"}
    assert loud <= must | may
    assert not must or loud & must


def test_a_checkpoint_whose_experts_were_cut_the_wrong_way_is_refused() -> None:
    import fp8load

    with pytest.raises(fp8load.Fp8LoadError, match=r"experts\.0\.gate_proj\.weight_packed"):
        fp8load.load(FOLDER / CORRUPT)


@pytest.mark.parametrize("name", NAMES)
def test_experts_filled_by_weight_loader_calls_are_those_of_the_plan(name: str) -> None:
    """An engine's way: one call for each expert and part, or one tensor for all experts."""
    from fp8load.runtime.experts import ScaledLinearStack
    from fp8load.runtime.parameters import make_parameter
    from fp8load.scheme import Role

    plan = opened(name).plan()
    loaded = plan.load()
    for module in experts_of(FOLDER / name):
        for half in (loaded[module].w13, loaded[module].w2):
            params = {}
            for role in Role:
                full = getattr(half, role.value, None)
                if full is not None:
                    rows = {source.slot: source.shape[0] for source in half.weight.param_layout.sources}
                    params[role] = make_parameter(full.param_layout, full.full_name, scheme=half.scheme, num_rows=rows)
            empty = ScaledLinearStack(params, scheme=half.scheme, experts=half.experts, name=half.name)
            for role, param in params.items():
                source = getattr(half, role.value).detach()
                for at, expert in enumerate(half.experts):
                    for part, box in enumerate(param.param_layout.sources[: len(half.output_sizes)]):
                        rows_of_part = slice(box.dst.lo[1], box.dst.hi[1])
                        param.weight_loader(param, source[at][rows_of_part], part, expert_id=expert)
            empty.finalize()
            assert torch.equal(empty.dequantize(), half.dequantize())


def test_an_unfilled_expert_is_named() -> None:
    import fp8load
    from fp8load.runtime.parameters import make_parameter

    half = opened("mo-mixtral-fp8").plan().load()["model.layers.0.block_sparse_moe.experts"].w13
    weight = make_parameter(half.weight.param_layout, half.weight.full_name, scheme=half.scheme)
    for expert in (0, 2):
        weight.weight_loader(weight, half.weight.detach()[expert], expert_id=expert)

    from fp8load.runtime.seal import seal

    with pytest.raises(fp8load.Fp8LoadError, match=r"1\.gate"):
        seal([weight])


def test_an_expert_of_another_rank_is_left_out() -> None:
    half = opened("mo-qwen3moe-nvfp4").plan(ep_rank=1, ep_size=2).load()["model.layers.1.mlp.experts"].w13
    before = half.dequantize()

    half.weight.weight_loader(half.weight, torch.zeros_like(half.weight.detach()[0]), expert_id=0)

    assert torch.equal(half.dequantize(), before)


def test_gate_and_up_with_different_scalar_scales_stay_exact() -> None:
    layer = opened("mo-mixtral-fp8").plan().load()["model.layers.0.block_sparse_moe.experts"]
    layer.w13.weight_scale.weight_loader(layer.w13.weight_scale, torch.tensor(3.0), "up", expert_id=1)

    w13 = layer.w13.dequantize()

    size = layer.w13.output_sizes[0]
    codes = layer.w13.weight.detach().float()
    scale = layer.w13.weight_scale.detach()
    assert torch.equal(w13[1, size:], codes[1, size:] * 3.0)
    assert torch.equal(w13[1, :size], codes[1, :size] * scale[1, 0])


def test_every_mixture_in_the_fixtures_is_tried() -> None:
    routed = {
        folder.name
        for folder in FOLDER.iterdir()
        if folder.is_dir() and any(".experts." in name for name in tensors(folder))
    }

    assert routed == {*FORMS, CORRUPT}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_experts_on_a_gpu_hold_the_same_bits_and_compute_the_same(name: str) -> None:
    """Pieces, alternating rows and columns first are put in place there; by default inputs are quantized there too."""
    checkpoint = opened(name)
    here, there = checkpoint.plan().load(), checkpoint.plan().load(device="cuda", backend="reference")
    chosen = checkpoint.plan().load(device="cuda")
    for module in experts_of(FOLDER / name):
        x = torch.randn(6, here[module].w13.shape[2], generator=torch.Generator().manual_seed(2))
        ids, share = torch.arange(12).reshape(6, 2) % len(here[module].experts), torch.full((6, 2), 0.5)

        for got, expected in zip(there[module].dequantize(), here[module].dequantize(), strict=True):
            assert torch.equal(got.cpu(), expected)
        y = there[module](x.cuda(), share.cuda(), ids.cuda())
        expected = here[module](x, share, ids)
        torch.testing.assert_close(y.cpu(), expected, rtol=1e-4, atol=1e-4)
        y = chosen[module](x.cuda(), share.cuda(), ids.cuda())
        assert (y.cpu() - expected).norm() < 0.1 * expected.norm()  # two roundings of inputs to FP8, each 2 to 4 %
    for name_of_tensor, tensor in here.tensors.items():
        assert torch.equal(there.tensors[name_of_tensor].cpu(), tensor)
