"""FP8 layers out of an unquantized checkpoint: the numbers of quantizing first, in little more memory than theirs."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

import fp8load
from fp8load.errors import LoadError, PlanError, UsageError
from fp8load.plan.online import SCHEMES
from fp8load.runtime import load_online, quantize_weight
from fp8load.runtime.dequantize import dequantize
from fp8load.runtime.experts import ScaledExperts
from runtime.updating import FOLDER, addresses, bytes_of, frozen, outputs

NAMES = ("ct-llama128-fp8-static", "ct-phi3-fp8-static-kv", "hf-qwen3moe-fp8-block32", "ct-gptoss-fp8-dynamic",
         "ct-dsv3-fp8-block", "ct-mixtral-fp8-dynamic", "mo-qwen2-fp8")  # fmt: skip
LLAMA, STACKED = "ct-llama128-fp8-static", "ct-gptoss-fp8-dynamic"
CASES = [(name, quantize) for name in NAMES for quantize in SCHEMES if (name, quantize) != (STACKED, "fp8-block")]


def without_quantization(config: dict[str, Any]) -> dict[str, Any]:
    return {
        key: without_quantization(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key != "quantization_config"
    }


def write(folder: Path, name: str, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((FOLDER / name / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(without_quantization(config)))
    return folder


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A checkpoint as it was before it was quantized, in BF16."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            with fp8load.open(FOLDER / name) as checkpoint:
                tensors = {key: value.contiguous() for key, value in checkpoint.plain_tensors(torch.bfloat16)}
            made[name] = write(tmp_path_factory.mktemp("wide") / name, name, tensors)
        return made[name]

    return get


@pytest.mark.parametrize(("name", "quantize"), CASES)
def test_every_layer_holds_what_its_weights_become_when_each_is_quantized(name, quantize, wide, tmp_path) -> None:
    """The oracle: each stored weight through the quantizer and back to float32, loaded as an unquantized checkpoint."""
    model = fp8load.load(wide(name), quantize=quantize)
    scheme, tensors = SCHEMES[quantize], load_file(wide(name) / "model.safetensors")
    exact = {key: value.float() for key, value in tensors.items()}
    with fp8load.open(wide(name)) as checkpoint:
        for info in model.plan.lowered.modules.values():
            if info.scheme is None:
                continue
            weight = checkpoint.tensors[info.tensors["weight"].name]
            whole = exact[stored := weight.name.partition("[")[0]]
            piece = whole if stored == weight.name else whole[int(weight.name[len(stored) + 1 : -1])]
            w_NK = piece.T if "weight" in info.transposed else piece
            made = quantize_weight.quantize_weight(w_NK, scheme.weight)
            w_NK.copy_(dequantize(made.codes, made.scale, scheme.weight.granularity))
    twin = fp8load.load(write(tmp_path / "exact", name, exact))

    assert len(model) > 0
    for key, layer in model.items():
        made = layer.dequantize()
        parts = made._asdict() if isinstance(layer, ScaledExperts) else {"": made}
        for part, value in parts.items():
            assert torch.equal(value, twin.tensors[f"{key}.{part}.weight" if part else f"{key}.weight"]), key
    for key, tensor in model.tensors.items():
        assert torch.equal(tensor.float(), twin.tensors[key]), key
    assert all(len(answer) for answer in outputs(model).values())


def test_routers_embeddings_heads_and_norms_stay_as_they_are(wide) -> None:
    model = fp8load.load(wide("hf-qwen3moe-fp8-block32"), quantize="fp8-channel")

    kept = set(model.tensors)
    assert {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"} <= kept
    assert any(name.endswith("mlp.gate.weight") for name in kept)
    assert not any("_proj.weight" in name for name in kept)


@pytest.mark.parametrize("quantize", ["fp8-tensor", "fp8-channel"])
def test_each_rank_holds_its_piece_of_the_whole_that_was_quantized(quantize, wide) -> None:
    name = "model.layers.0.self_attn.o_proj"
    whole = fp8load.load(wide(LLAMA), quantize=quantize)[name].dequantize()

    parts = [fp8load.load(wide(LLAMA), quantize=quantize, tp_rank=rank, tp_size=2)[name] for rank in range(2)]

    assert torch.equal(torch.cat([part.dequantize() for part in parts], 1), whole)


class Peak(TorchDispatchMode):
    """Counts the bytes of all storages that operations of this thread make, and the most that lived at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else [result]:
            if isinstance(one, torch.Tensor):
                self._count(one.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._seen and storage.nbytes():
            self._seen.add(key)
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, key, storage.nbytes())

    def _gone(self, key: int, nbytes: int) -> None:
        self._seen.discard(key)
        self.now -= nbytes


@pytest.mark.parametrize(("name", "quantize"), [case for case in CASES if case[0] in (LLAMA, STACKED)])
def test_memory_is_that_of_the_fp8_model_and_one_weight(name, quantize, wide, monkeypatch) -> None:
    monkeypatch.setattr(load_online, "BATCH_NBYTES", 1)
    monkeypatch.setattr(quantize_weight, "BAND_NUM_ELEMENTS", 1024)
    plan = fp8load.open(wide(name)).plan(quantize=quantize)
    largest = max(
        meta.nbytes for meta in plan.base.tensors.values() if len(meta.shape) > 1 and "embed" not in meta.name
    )

    with Peak() as peak:
        model = plan.load()

    assert peak.now >= plan.nbytes  # it counts what lives
    slack = 256 * len(plan.params) + 32 * max(1024, 128 * 256)  # alignment; a band in float32, some times over
    assert peak.most <= plan.nbytes + largest + largest // 2 + slack
    assert peak.most < plan.base.nbytes + (largest + slack if name == LLAMA else plan.nbytes)
    del model


def test_progress_ends_with_every_byte_read(wide) -> None:
    seen: list[tuple[int, int]] = []

    plan = fp8load.open(wide(LLAMA)).plan(quantize="fp8-block")
    plan.load(progress=lambda done, total: seen.append((done, total)))

    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] == plan.nbytes_read


@pytest.mark.parametrize("quantize", ["fp8-tensor", "fp8-channel"])
def test_a_rank_reads_the_whole_of_a_weight_that_it_quantizes_and_its_plan_says_so(quantize, wide) -> None:
    """Unlike a checkpoint that is quantized already, of which it reads its piece."""
    seen: list[tuple[int, int]] = []

    plan = fp8load.open(wide(LLAMA)).plan(quantize=quantize, tp_rank=1, tp_size=2)
    plan.load(progress=lambda done, total: seen.append((done, total)))

    assert seen[-1][0] == seen[-1][1] == plan.nbytes_read > plan.base.nbytes_read


@pytest.mark.parametrize("name", [LLAMA, STACKED])
@pytest.mark.parametrize("batch", [1, 40_000, 256 << 20])
def test_a_plan_says_how_much_of_the_weights_is_held_while_they_are_quantized(name, batch, wide, monkeypatch) -> None:
    from fp8load import fusion

    monkeypatch.setattr(load_online, "BATCH_NBYTES", batch)
    monkeypatch.setattr(fusion, "BATCH_NBYTES", batch)
    held: list[int] = []
    quantize = load_online._quantize
    monkeypatch.setattr(load_online, "_quantize", lambda weights, *rest: (
        held.append(sum(one.stored.nbytes for one in weights)), quantize(weights, *rest)))  # fmt: skip

    plan = fp8load.open(wide(name)).plan(quantize="fp8-channel")
    plan.load()

    assert max(held) <= plan.nbytes_staged <= max(batch, *held)
    assert plan.nbytes_staged <= sum(held)
    assert plan.base.nbytes_staged == 0


def test_a_model_that_was_quantized_while_loading_takes_updates_in_16_bits_and_as_codes(wide) -> None:
    model = fp8load.load(wide(LLAMA), quantize="fp8-channel")
    before, places = frozen(model), addresses(model)
    tensors = load_file(wide(LLAMA) / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"

    model.reload({name: tensors[name] * 2})
    layer = model["model.layers.0.mlp.down_proj"]
    made = quantize_weight.quantize_weight(tensors[name] * 2, SCHEMES["fp8-channel"].weight)
    assert bytes_of(layer.weight) == bytes_of(made.codes)
    model.reload({name: made.codes, f"{name}_scale": made.scale * 3})
    assert bytes_of(layer.weight_scale) == bytes_of(made.scale * 3)

    model.reload(wide(LLAMA))

    assert frozen(model) == before
    assert addresses(model) == places


def test_a_plan_that_quantizes_explains_a_tensor_by_what_its_file_holds(wide) -> None:
    plan = fp8load.open(wide(LLAMA)).plan(quantize="fp8-channel")

    said = plan.explain("model.layers.0.mlp.down_proj.weight")

    assert "BF16" in said.splitlines()[0]
    assert "f8_e4m3 per channel" in said
    assert "made while loading" in plan.explain("model.layers.0.mlp.down_proj.weight_scale")


REFUSED = [("fp8-channel", "PLAN007"), ("fp9", "USE016")]


@pytest.mark.parametrize(("quantize", "code"), REFUSED)
def test_what_cannot_be_quantized_while_loading_is_refused(quantize, code) -> None:
    with pytest.raises((PlanError, UsageError), match=code):
        fp8load.open(FOLDER / LLAMA).plan(quantize=quantize)


def test_gate_and_up_that_alternate_row_by_row_have_no_blocks_of_their_own(wide) -> None:
    with pytest.raises(PlanError, match=r"F8L504[\s\S]*gate_up_proj[\s\S]*fp8-channel"):
        fp8load.open(wide(STACKED)).plan(quantize="fp8-block")


def test_an_unknown_family_is_refused_because_its_linear_layers_are_not_known(tmp_path) -> None:
    save_file({"a.weight": torch.ones(4, 4)}, tmp_path / "model.safetensors")

    with pytest.raises(PlanError, match=r"PLAN007[\s\S]*known family"):
        fp8load.open(tmp_path / "model.safetensors").plan(quantize="fp8-tensor")


def test_a_weight_with_a_nan_is_refused_by_name(tmp_path, wide) -> None:
    tensors = load_file(wide(LLAMA) / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name][3, 5] = float("nan")

    with pytest.raises(LoadError, match=rf"FILL726[\s\S]*{name}[\s\S]*\[3, 5\]"):
        fp8load.load(write(tmp_path / "bad", LLAMA, tensors), quantize="fp8-block")
