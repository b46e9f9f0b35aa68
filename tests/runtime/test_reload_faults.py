"""Faults while a layer is written: it is old again, or new, or torn and says so; never half of each, unseen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fp8load
from fp8load.errors import LoadError, UnfilledSlotError
from fp8load.runtime import exchange, live
from fp8load.runtime.exchange import Exchange, Placed
from fp8load.runtime.model import LoadedModel
from runtime.updating import FOLDER, addresses, frozen, held, newer, outputs, prepared, stored

LLAMA, MOE = "ct-llama128-fp8-static", "ct-mixtral-fp8-dynamic"
FIRST, SECOND = "model.layers.0", "model.layers.1"
HOW = ("mapping", "chunks", "checkpoint", "wide")


def update(name: str, how: str, folder: Path) -> Any:
    """New weights, sorted by layer where they are chunks."""
    tensors = newer(stored(FOLDER / name))
    if how == "wide":
        with fp8load.open(folder) as checkpoint:
            return dict(checkpoint.plain_tensors(torch.bfloat16))
    if how == "chunks":
        layers = dict.fromkeys(live.layer_of(key) for key in sorted(tensors))
        return iter([{key: tensors[key] for key in tensors if live.layer_of(key) == layer} for layer in layers])
    return folder if how == "checkpoint" else tensors


def of(layer: str, found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name.startswith(f"{layer}.")}


@contextmanager
def failing_swap(monkeypatch: pytest.MonkeyPatch, layer: str, at: int, fault: BaseException) -> Iterator[list[int]]:
    """The copy of this number fails while a layer is swapped in."""
    counted: list[int] = []
    failing: list[Exchange] = []
    init, swap, copy = Exchange.__init__, Exchange.swap, torch.Tensor.copy_

    def noting(self: Exchange, placed: Sequence[Placed]) -> None:
        if live.layer_of(placed[0].param.rpartition(".")[0]) == layer:
            failing.append(self)
        init(self, placed)

    def copying(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        counted.append(1)
        if len(counted) == at:
            raise fault
        return copy(self, other)

    def swapping(self: Exchange) -> None:
        with monkeypatch.context() as patched:
            if self in failing:
                patched.setattr(torch.Tensor, "copy_", copying)
            swap(self)

    with monkeypatch.context() as patched:
        patched.setattr(Exchange, "__init__", noting)
        patched.setattr(Exchange, "swap", swapping)
        yield counted


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("at", [1, 2, 3, 5, 18])
def test_a_layer_that_cannot_be_written_is_old_again(how, at, newer_folder, monkeypatch) -> None:
    model = fp8load.load(FOLDER / LLAMA)
    given = update(LLAMA, how, newer_folder(LLAMA))
    before, answers, places = frozen(model), outputs(model), (addresses(model), prepared(model))

    with (
        failing_swap(monkeypatch, SECOND, at, RuntimeError("out of luck")) as counted,
        pytest.raises(LoadError, match=rf"FILL730[\s\S]*{SECOND}[\s\S]*out of luck[\s\S]*old weights") as caught,
    ):
        model.reload(given)

    assert len(counted) >= at
    assert of(SECOND, frozen(model)) == of(SECOND, before)
    assert of(SECOND, outputs(model)) == of(SECOND, answers)
    assert (addresses(model), prepared(model)) == places
    assert model.torn == ()
    now = {one for one in frozen(model) if frozen(model)[one] != before[one]}
    assert any(one.startswith(FIRST) for one in now)
    assert any(one.startswith(FIRST) for one in model.mixed)
    assert not any(one.startswith(SECOND) for one in model.mixed)
    assert "new: " in str(caught.value)

    model.reload(update(LLAMA, "mapping", newer_folder(LLAMA)))

    assert frozen(model) == frozen(fp8load.load(newer_folder(LLAMA)))
    assert model.mixed == ()


def test_an_interruption_in_the_middle_of_a_layer_leaves_it_old(newer_folder, monkeypatch) -> None:
    model = fp8load.load(FOLDER / MOE)
    before = frozen(model)

    with failing_swap(monkeypatch, SECOND, 4, KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        model.reload(newer_folder(MOE))

    assert of(SECOND, frozen(model)) == of(SECOND, before)
    assert not any(one.startswith(SECOND) for one in model.mixed)
    assert any(one.startswith(FIRST) for one in model.mixed)


def test_memory_that_is_not_enough_for_a_weight_that_is_quantized_leaves_its_layer_untouched(monkeypatch) -> None:
    model, calls = fp8load.load(FOLDER / LLAMA), []
    before, quantize = frozen(model), live.quantize_weight
    with fp8load.open(FOLDER / LLAMA) as checkpoint:
        wide = {name: tensor for name, tensor in checkpoint.plain_tensors(torch.bfloat16) if FIRST in name}
    wide = {name: tensor * 2 if name.endswith("proj.weight") else tensor for name, tensor in wide.items()}

    def short(*given: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("tried to allocate 7.00 GiB")
        return quantize(*given, **options)

    monkeypatch.setattr(live, "quantize_weight", short)
    with pytest.raises(LoadError, match=rf"FILL730[\s\S]*{FIRST}[\s\S]*OutOfMemoryError: tried to allocate"):
        model.reload(wide)

    assert frozen(model) == before
    assert model.mixed == model.torn == ()


class Allocated(TorchDispatchMode):
    """What operations give back that is no view of what was there."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {one.untyped_storage()._cdata for one in args if isinstance(one, torch.Tensor)}
        if isinstance(result, torch.Tensor) and result.untyped_storage()._cdata not in known:
            self.names.append(str(func))
        return result


PLACES = {
    "rows": lambda: torch.arange(60.0).view(12, 5),
    "columns of a wider one": lambda: torch.arange(60.0).view(6, 10)[:, 3:8],
    "a number": lambda: torch.tensor(3.0),
    "nothing": lambda: torch.empty(0, 4),
    "fp8": lambda: torch.arange(60.0).to(torch.float8_e4m3fn).view(3, 4, 5)[1:, :, :3],
    "exponents": lambda: torch.arange(60, dtype=torch.uint8).view(torch.float8_e8m0fnu).view(6, 10)[::2],
}


@pytest.mark.parametrize("is_kept_apart", [False, True])
@pytest.mark.parametrize("scratch", [1, 50, 16 << 20])
def test_an_exchange_allocates_nothing_after_it_was_made_and_goes_back_from_anywhere(
    scratch, is_kept_apart, monkeypatch
) -> None:
    monkeypatch.setattr(exchange, "SCRATCH_NBYTES", scratch)
    copy, state = torch.Tensor.copy_, {"left": 1 << 30}

    def failing(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        state["left"] -= 1
        if state["left"] == 0:
            raise RuntimeError("a fault")
        return copy(self, other)

    for at in range(1, 400):
        places = [make() for make in PLACES.values()]
        values = [torch.zeros_like(place.float()).to(place.dtype) for place in places]
        before = [place.float().clone() for place in places]
        pairs = zip(places, values, strict=True)
        made = Exchange([
            Placed("", "", place, value, torch.empty_like(place) if is_kept_apart else None) for place, value in pairs
        ])  # fmt: skip
        monkeypatch.setattr(torch.Tensor, "copy_", failing)
        state["left"] = at
        with Allocated() as seen:
            try:
                made.swap()
            except RuntimeError:
                state["left"] = 1 << 30
                made.take_back()
            else:
                break
        monkeypatch.setattr(torch.Tensor, "copy_", copy)
        assert all(torch.equal(place.float(), old) for place, old in zip(places, before, strict=True)), at
        assert seen.names == []
    monkeypatch.setattr(torch.Tensor, "copy_", copy)
    assert at > 2 * (len(PLACES) - 1)  # every copy of every place but the empty one failed once
    assert not any(place.float().count_nonzero() for place in places if place.dtype != torch.float8_e8m0fnu)
    state["left"] = 1 << 30
    made.take_back()
    assert all(torch.equal(place.float(), old) for place, old in zip(places, before, strict=True))
    if is_kept_apart:  # values are someone else's
        assert not any(value.float().count_nonzero() for value in values if value.dtype != torch.float8_e8m0fnu)


def spoiled(model: LoadedModel, name: str, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The backend of a layer fails to prepare it so many times."""
    layer, prepare = model[name], type(model[name])._prepare
    left = [times]

    def failing(self: Any) -> None:
        if self is layer and left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("no room for a transposed copy")
        prepare(self)

    monkeypatch.setattr(type(layer), "_prepare", failing)


QKV, DOWN = f"{SECOND}.self_attn.qkv_proj", f"{SECOND}.mlp.down_proj"


@pytest.mark.parametrize("requantize", [None, "max"])
@pytest.mark.parametrize("how", HOW)
def test_a_backend_that_fails_once_leaves_old_weights_prepared_as_before(how, requantize, newer_folder, monkeypatch):
    model = fp8load.load(FOLDER / LLAMA, requantize=requantize)
    before, answers = frozen(model), outputs(model)

    spoiled(model, QKV, monkeypatch, 1)
    with pytest.raises(LoadError, match=r"FILL730[\s\S]*transposed copy[\s\S]*old weights"):
        model.reload(update(LLAMA, how, newer_folder(LLAMA)))

    assert of(SECOND, frozen(model)) == of(SECOND, before)
    assert of(SECOND, outputs(model)) == of(SECOND, answers)
    assert model.torn == ()


@pytest.mark.parametrize("how", HOW)
def test_a_layer_that_cannot_be_put_back_either_refuses_to_run_until_it_came_anew(how, newer_folder, monkeypatch):
    model = fp8load.load(FOLDER / LLAMA)
    before, answers = frozen(model), outputs(model)

    spoiled(model, QKV, monkeypatch, 2)
    with pytest.raises(LoadError, match=rf"FILL730[\s\S]*is torn[\s\S]*torn: 1 \({QKV}\)[\s\S]*model\.torn"):
        model.reload(update(LLAMA, how, newer_folder(LLAMA)))

    assert model.torn == (QKV,)
    assert QKV not in model.mixed
    with pytest.raises(UnfilledSlotError, match=r"FILL701[\s\S]*broke off in slot q: reload all of[\s\S]*qkv_proj"):
        model[QKV](torch.ones(2, 128))
    assert model[DOWN](torch.ones(2, 192)).isfinite().all()
    assert frozen(model)[f"{DOWN}.weight"] == before[f"{DOWN}.weight"]

    whole = newer(stored(FOLDER / LLAMA))
    part = {name: tensor for name, tensor in whole.items() if f"{SECOND}.self_attn.q_proj" in name}
    model.reload(part)  # a part of the layer does not make it whole
    assert model.torn == (QKV,)
    with pytest.raises(UnfilledSlotError, match="FILL701"):
        model[QKV](torch.ones(2, 128))
    model.reload(whole)

    assert model.torn == model.mixed == ()
    assert frozen(model) == frozen(fp8load.load(newer_folder(LLAMA)))
    assert outputs(model).keys() == answers.keys()


def test_a_plain_tensor_that_cannot_be_put_back_is_listed(newer_folder, monkeypatch) -> None:
    model = fp8load.load(FOLDER / LLAMA)
    norm = "model.norm.weight"

    def broken(self: Exchange) -> None:
        raise RuntimeError("the device is gone")

    with monkeypatch.context() as patched:
        patched.setattr(Exchange, "take_back", broken)
        with failing_swap(monkeypatch, "model.norm", 2, RuntimeError("lost")), pytest.raises(LoadError) as caught:
            model.reload({norm: held(model)[norm] * 2})

    first = caught.value.__cause__.__cause__
    assert str(first) == "lost"
    assert first.__notes__ == ["and its old weights could not be put back: RuntimeError: the device is gone"]
    assert "torn: 1 (model.norm.weight)" in str(caught.value)
    assert model.torn == (norm,)
    model.reload({norm: torch.ones(128, dtype=torch.bfloat16)})
    assert model.torn == ()


def test_no_more_than_a_layer_is_held_beside_the_model(newer_folder, monkeypatch) -> None:
    model, seen, staged = fp8load.load(FOLDER / LLAMA), [], live.Live.staged
    layers = dict.fromkeys(live.layer_of(param.module) for param in model.plan.params.values())

    def spying(self: live.Live, delivered: Any) -> list[Placed]:
        found = staged(self, delivered)
        seen.append({live.layer_of(model.plan.params[one.param].module) for one in found})
        return found

    monkeypatch.setattr(live.Live, "staged", spying)
    model.reload(newer(stored(FOLDER / LLAMA)))

    assert all(len(one) == 1 for one in seen)
    assert len(seen) == len(layers)
