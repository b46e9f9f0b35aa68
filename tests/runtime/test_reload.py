"""New weights into a loaded model: the bytes of a fresh load, at the same addresses; or refused, and nothing moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import fp8load
from fp8load.errors import Fp8LoadError, LoadError, UsageError
from fp8load.runtime import replace_all
from fp8load.runtime.intake import SCALES
from fp8load.runtime.model import LoadedModel
from runtime.updating import FOLDER, addresses, frozen, held, newer, outputs, prepared, rewritten, stored

NAMES = (
    "ct-phi3-fp8-static-kv", "hf-llama256-fp8-block", "ct-llamaodd-fp8-block", "ct-llama128-fp8-static",
    "mo-qwen2-fp8", "hf-qwen3moe-fp8-block32", "ct-mixtral-fp8-dynamic", "mo-gptoss-fp8", "hf-gptoss-mxfp4",
    "ct-llama128-nvfp4", "mo-llama128-nvfp4-awqlite", "mo-llama128-mxfp8", "hf-llamaodd-fp8-block-16x8",
    "mo-llamaodd-fp8-pbwo", "qk-llama128-mxfp6e3m2", "ct-dsv3-fp8-block",
)  # fmt: skip
KEYS = ("tp_rank", "tp_size", "ep_rank", "ep_size")
WHOLE = (0, 1, 0, 1)
SPLIT = {
    (1, 2, 0, 1): ("ct-phi3-fp8-static-kv", "mo-qwen2-fp8", "mo-llama128-nvfp4-awqlite"),
    (0, 1, 1, 2): ("hf-qwen3moe-fp8-block32", "mo-gptoss-fp8"),
    (1, 2, 2, 3): ("ct-mixtral-fp8-dynamic",),
}
PHI, LLAMA, MOE = "ct-phi3-fp8-static-kv", "ct-llama128-fp8-static", "ct-mixtral-fp8-dynamic"

Update = Callable[[dict[str, torch.Tensor], Path], object]


def one_by_one(tensors: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Chunks of one tensor, in a buffer that is used again."""
    for name, tensor in reversed(tensors.items()):
        chunk = {name: tensor.clone()}
        yield chunk
        chunk[name].view(torch.uint8).zero_() if tensor.dim() else chunk[name].zero_()


UPDATES: dict[str, Update] = {
    "mapping": lambda tensors, _: tensors,
    "pairs": lambda tensors, _: iter(tensors.items()),
    "chunks": lambda tensors, _: one_by_one(tensors),
    "lists": lambda tensors, _: [list(tensors.items())[:7], list(tensors.items())[7:]],
    "checkpoint": lambda _, folder: fp8load.open(folder),
    "path": lambda _, folder: str(folder),
}


CASES = [
    *((name, how, WHOLE) for name in NAMES for how in ("mapping", "chunks", "checkpoint")),
    *((LLAMA, how, WHOLE) for how in ("pairs", "lists", "path")),
    *((name, how, rank) for rank, names in SPLIT.items() for name in names for how in ("mapping", "checkpoint")),
]


def load(name: str, rank: tuple[int, ...] = WHOLE) -> LoadedModel:
    return fp8load.open(FOLDER / name).plan(**dict(zip(KEYS, rank, strict=True))).load()


@pytest.mark.parametrize(("name", "how", "rank"), CASES, ids=str)
def test_a_reload_gives_the_bytes_of_a_fresh_load_at_the_same_addresses(name, how, rank, newer_folder) -> None:
    model, folder = load(name, rank), newer_folder(name)
    fresh = fp8load.open(folder).plan(**dict(zip(KEYS, rank, strict=True))).load()
    before, places = outputs(model), (addresses(model), prepared(model))

    done = model.reload(UPDATES[how](newer(stored(FOLDER / name)), folder))

    assert frozen(model) == frozen(fresh)
    assert (addresses(model), prepared(model)) == places
    assert outputs(model) == outputs(fresh) != before
    assert set(done.layers) == {*model, *model.tensors}
    assert model.mixed == ()


def test_the_unquantized_part_and_scales_of_the_kv_cache_are_part_of_a_reload() -> None:
    model = load(PHI)
    old = held(model)["model.norm.weight"].clone()

    done = model.reload({"model.norm.weight": old * 3, "model.layers.0.self_attn.k_scale": torch.tensor([7.0])})

    assert torch.equal(model.tensors["model.norm.weight"], old * 3)
    assert model.tensors["model.layers.0.self_attn.k_scale"].item() == 7.0
    assert done.num_tensors == 2


def test_a_part_of_a_model_leaves_the_rest_as_it_is() -> None:
    model, tensors = load(LLAMA), newer(stored(FOLDER / LLAMA))
    before = frozen(model)
    names = ("model.layers.1.self_attn.k_proj.weight", "model.layers.1.self_attn.k_proj.weight_scale")

    done = model.reload({name: tensors[name] for name in names})

    changed = {name for name, data in frozen(model).items() if data != before[name]}
    assert changed == {"model.layers.1.self_attn.qkv_proj.weight", "model.layers.1.self_attn.qkv_proj.weight_scale"}
    assert done.layers == ("model.layers.1.self_attn.qkv_proj",)
    fresh = held(load(LLAMA))["model.layers.1.self_attn.qkv_proj.weight_scale"]
    assert (held(model)["model.layers.1.self_attn.qkv_proj.weight_scale"] / fresh).tolist() == [1, 2, 1]


W, S = "model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.down_proj.weight_scale"
INPUT = "model.layers.0.mlp.down_proj.input_scale"


def without(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {other: tensor for other, tensor in tensors.items() if other != name}


def changed(tensors: dict[str, torch.Tensor], name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**tensors, name: tensor}


Fault = Callable[[dict[str, torch.Tensor]], object]
FAULTS: dict[str, tuple[str, str, Fault]] = {
    "unknown": ("FILL720", "model.layers.9.x", lambda all_: changed(all_, "model.layers.9.x", torch.ones(1))),
    "fused name": ("FILL720", "gate_up", lambda all_: changed(all_, "model.layers.0.mlp.gate_up.weight", all_[W])),
    "twice": ("FILL721", W, lambda all_: [*all_.items(), (W, all_[W])]),
    "shape": ("FILL722", W, lambda all_: changed(all_, W, all_[W][:-1])),
    "transposed": ("FILL722", W, lambda all_: changed(all_, W, all_[W].T)),
    "shape of a scale": ("FILL722", S, lambda all_: changed(all_, S, torch.ones(2))),
    "dtype": ("FILL723", W, lambda all_: changed(all_, W, all_[W].view(torch.int8))),
    "dtype of a scale": ("FILL723", S, lambda all_: changed(all_, S, torch.ones(1, dtype=torch.int32))),
    "float64": ("FILL723", W, lambda all_: changed(all_, W, all_[W].double())),
    "a norm in float32": ("FILL723", "norm", lambda all_: changed(all_, "model.norm.weight", torch.ones(128))),
    "no scale": ("FILL724", W, lambda all_: without(all_, S)),
    "no weight": ("FILL724", S, lambda all_: without(all_, W)),
    "wide with a scale": ("FILL724", S, lambda all_: changed(all_, W, all_[W].bfloat16())),
    "nan": ("FILL725", S, lambda all_: changed(all_, S, torch.tensor([float("nan")]))),
    "infinite": ("FILL725", S, lambda all_: changed(all_, S, torch.tensor([float("inf")]))),
    "zero": ("FILL725", S, lambda all_: changed(all_, S, torch.zeros(1))),
    "negative": ("FILL725", S, lambda all_: changed(all_, S, -torch.ones(1))),
    "zero input scale": ("FILL725", "input", lambda all_: changed(all_, INPUT, torch.zeros(1))),
    "wide nan": ("FILL726", W, lambda all_: changed(without(all_, S), W, all_[W].bfloat16() * float("nan"))),
    "no tensor": ("USE805", "float", lambda all_: changed(all_, W, 3.5)),
}  # fmt: skip


@pytest.mark.parametrize("how", ["mapping", "chunk"])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_refused_by_name_and_every_layer_answers_as_before(fault, how) -> None:
    code, names, spoil = FAULTS[fault]
    model, update = load(LLAMA), spoil(newer(stored(FOLDER / LLAMA)))
    before, answers = frozen(model), outputs(model)

    with pytest.raises(Fp8LoadError) as caught:
        model.reload(update if how == "mapping" else [list(update.items()) if isinstance(update, dict) else update])

    assert caught.value.code == code
    assert names in str(caught.value)
    assert caught.value.expected
    assert caught.value.got
    if how == "mapping":
        assert frozen(model) == before
        assert outputs(model) == answers
        assert model.mixed == ()


def test_a_scale_may_come_in_a_wider_or_another_float_that_memory_holds_exactly() -> None:
    """BF16 in the file, F32 in memory: F32 is stored as it is, and F16 is not mistaken for BF16 of as many bytes."""
    for scale in (torch.tensor(0.123456789), torch.tensor([[0.333]], dtype=torch.float16)):
        model = load(LLAMA)

        model.reload({W: stored(FOLDER / LLAMA)[W], S: scale})

        assert held(model)[S].item() == scale.float().item()


def test_a_name_that_is_nearly_right_is_answered_with_the_right_one() -> None:
    with pytest.raises(LoadError, match=r"did you mean model\.norm\.weight"):
        load(LLAMA).reload({"norm.weight": torch.ones(128)})


def test_what_is_no_update_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no update"):
        load(LLAMA).reload(3)  # type: ignore[arg-type]


def test_chunks_that_leave_a_weight_without_its_scale_name_it_and_do_not_apply_it() -> None:
    model, tensors = load(LLAMA), newer(stored(FOLDER / LLAMA))
    old = frozen(model)[W]
    other = "model.layers.1.mlp.down_proj"

    with pytest.raises(LoadError, match=rf"FILL724[\s\S]*{W}[\s\S]*new: 1 \({other}\)") as caught:
        model.reload(
            [[(W, tensors[W])], {f"{other}.{role}": tensors[f"{other}.{role}"] for role in ("weight", "weight_scale")}]
        )

    assert caught.value.code == "FILL724"
    assert frozen(model)[W] == old
    assert model.mixed == (other,)
    model.reload(tensors)
    assert model.mixed == ()


def test_chunks_hold_back_no_more_than_they_may() -> None:
    model, tensors = load(LLAMA), newer(stored(FOLDER / LLAMA))
    before = frozen(model)
    weights = [{name: tensor} for name, tensor in tensors.items() if name.endswith("_proj.weight")]

    with pytest.raises(LoadError, match=r"FILL728[\s\S]*40,000 bytes"):
        model.reload(weights, max_held_nbytes=40_000)

    assert frozen(model) == before


def test_a_sender_that_breaks_off_leaves_a_model_that_knows_it_is_mixed() -> None:
    model, tensors = load(LLAMA), newer(stored(FOLDER / LLAMA))
    closed = []

    def chunks() -> Iterator[dict[str, torch.Tensor]]:
        try:
            yield {W: tensors[W], S: tensors[S]}
            raise ConnectionError("the trainer is gone")
        finally:
            closed.append(True)

    with pytest.raises(
        LoadError, match=r"FILL727[\s\S]*the trainer is gone[\s\S]*new: 1 \(model.layers.0.mlp.down_proj\)"
    ):
        model.reload(chunks())

    assert closed == [True]
    assert model.mixed == ("model.layers.0.mlp.down_proj",)
    model.reload({name: tensors[name] for name in (W, S)})
    assert model.mixed
    model.reload(one_by_one(tensors))
    assert model.mixed == ()


def test_a_generator_of_chunks_is_closed_when_one_is_refused() -> None:
    closed = []

    def chunks() -> Iterator[dict[str, torch.Tensor]]:
        try:
            yield {"nonsense": torch.ones(1)}
        finally:
            closed.append(True)

    with pytest.raises(LoadError):
        load(LLAMA).reload(chunks())

    assert closed == [True]


def test_a_disk_that_fails_in_the_middle_is_one_error_that_says_what_is_new(newer_folder, monkeypatch) -> None:
    model, fresh = load(LLAMA), frozen(fp8load.load(newer_folder(LLAMA)))
    before, read, calls = frozen(model), replace_all.execute, []
    scales = replace_all.groups(spec for spec in model.plan.params.values() if spec.role in SCALES)
    fails_at = len(scales) + 1 + list(replace_all.groups(model.plan.params.values())).index("model.layers.1")

    def failing(*given: object) -> None:
        calls.append(1)
        if len(calls) == fails_at:
            raise OSError(5, "Input/output error")
        read(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(replace_all, "execute", failing)
    with pytest.raises(LoadError, match=r"FILL727[\s\S]*Input/output error[\s\S]*new: [\s\S]*old: "):
        model.reload(newer_folder(LLAMA))

    now = frozen(model)
    new = {name for name in now if now[name] == fresh[name] != before[name]}
    old = {name for name in now if now[name] == before[name] != fresh[name]}
    assert new | old == {name for name in now if before[name] != fresh[name]}
    assert any(name.startswith("model.layers.0.") for name in new)
    assert not any(name.startswith("model.layers.1.") for name in new)
    assert any("model.layers.0" in name for name in model.mixed)
    assert not any("model.layers.1" in name for name in model.mixed)
    monkeypatch.undo()

    model.reload(newer_folder(LLAMA))

    assert model.mixed == ()
    assert frozen(model) == fresh


def test_a_bad_scale_anywhere_in_a_checkpoint_is_refused_before_the_first_layer(tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    folder = rewritten(FOLDER / LLAMA, tmp_path / "bad")
    name = "model.layers.1.mlp.down_proj.weight_scale"
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        if name in tensors:
            tensors[name].fill_(float("nan"))
            save_file(tensors, file, metadata={"format": "pt"})
    model = load(LLAMA)
    before = frozen(model)

    with pytest.raises(LoadError, match=rf"FILL725[\s\S]*safetensors: {name}[\s\S]*nan"):
        model.reload(folder)

    assert frozen(model) == before


def test_a_checkpoint_of_another_layout_is_refused_by_its_first_difference() -> None:
    model = load(LLAMA)

    with pytest.raises(LoadError, match=r"FILL729[\s\S]*model\.[\s\S]*expected[\s\S]*got"):
        model.reload(FOLDER / "hf-llama256-fp8-block")


def test_a_checkpoint_in_another_dialect_of_the_same_layout_is_no_other_layout() -> None:
    """AutoFP8 and llm-compressor name and store scales in their own ways, and a model has them in one."""
    model, other = load("ct-llama128-fp8-static"), fp8load.open(FOLDER / "afp8-llama128-static-kv").plan()

    fault = replace_all.layout_fault(model.plan, other)

    assert fault is None or "k_scale" in fault.tensor


def test_the_lossy_choice_is_made_again() -> None:
    model = fp8load.load(FOLDER / LLAMA, requantize="max")
    name = "model.layers.0.self_attn.qkv_proj"

    tensors = newer(stored(FOLDER / LLAMA))
    tensors["model.layers.0.self_attn.k_proj.weight_scale"] *= 5
    model.reload(tensors)

    scale = held(model)[f"{name}.weight_scale"]
    assert (scale == scale[0]).all()


class Norms(torch.nn.Module):
    """A module that has places for two of the tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Module()
        self.model.norm = torch.nn.LayerNorm(128, bias=False, dtype=torch.bfloat16)


def test_a_module_that_the_model_was_placed_in_has_the_new_weights() -> None:
    model, module = load(LLAMA), Norms()
    model.into(module, strict=False)

    model.reload(newer(stored(FOLDER / LLAMA)))

    assert torch.equal(module.model.norm.weight, newer(stored(FOLDER / LLAMA))["model.norm.weight"])


def test_a_module_that_has_memory_of_its_own_by_now_is_no_silent_loss() -> None:
    model, module = load(LLAMA), Norms()
    model.into(module, strict=False)
    before = frozen(model)
    module.float()

    with pytest.raises(LoadError, match=r"FILL712[\s\S]*model\.norm\.weight"):
        model.reload(newer(stored(FOLDER / LLAMA)))

    assert frozen(model) == before
