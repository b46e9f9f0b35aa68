"""How often a reload waits for the device: a round trip for a layer, not for every scale. Counted on the CPU."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fp8load
from fp8load.errors import LoadError
from fp8load.runtime.live import layer_of
from fp8load.runtime.slots import is_scale
from fp8load.runtime.verdicts import Verdicts, answers
from runtime.updating import FOLDER, newer, stored

NAMES = ("ct-llama128-fp8-static", "hf-qwen3moe-fp8-block32", "ct-llama128-nvfp4", "ct-mixtral-fp8-dynamic")
WAITING = ("aten._local_scalar_dense.default", "aten.nonzero.default", "aten.masked_select.default")
"""What brings numbers to Python, or a shape that depends on them."""


class Waits(TorchDispatchMode):
    """Where Python was given numbers of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def note(self) -> None:
        frames = [one for one in traceback.extract_stack() if "/fp8load" in one.filename]
        self.places.append(" < ".join(f"{Path(one.filename).name}:{one.name}" for one in reversed(frames[-4:])))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func) in WAITING:
            self.note()
        return func(*args, **(kwargs or {}))


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Everything that would wait for a device. `tolist` reads a CPU's memory without an operator: it is patched."""
    tolist = torch.Tensor.tolist
    with Waits() as waits, monkeypatch.context() as patched:

        def noting(self: torch.Tensor) -> Any:
            waits.note()
            return tolist(self)

        patched.setattr(torch.Tensor, "tolist", noting)
        yield waits.places


WIDE = ("ct-llama128-fp8-static", "hf-qwen3moe-fp8-block32")
CASES = [(name, how) for name in NAMES for how in ("mapping", "chunks", "wide", "checkpoint")
         if how != "wide" or name in WIDE]  # fmt: skip


@pytest.mark.parametrize(("name", "how"), CASES)
def test_a_reload_waits_a_few_times_for_each_layer_and_not_for_each_scale(name, how, newer_folder, monkeypatch) -> None:
    model, update = fp8load.load(FOLDER / name), newer(stored(FOLDER / name))
    for layer in model.values():
        layer.finalize()
    num_layers = len({layer_of(spec.module) for spec in model.plan.params.values() if spec.module in model.plan.layers})
    num_scales = sum(is_scale(spec.role) for spec in model.plan.params.values())
    if how == "wide":
        with fp8load.open(newer_folder(name)) as checkpoint:
            update = dict(checkpoint.plain_tensors(torch.bfloat16))
    given = {"checkpoint": newer_folder(name), "chunks": iter([update])}.get(how, update)

    with counted(monkeypatch) as places:
        model.reload(given)

    each = 3 if how == "checkpoint" else 1  # all scales are read and checked before the first layer is, and with it
    once = 0 if how == "checkpoint" else 1  # what comes together is asked about together
    assert len(places) <= once + each * num_layers, places
    assert len(places) < num_scales  # what it would be otherwise


def test_the_first_question_with_a_bad_answer_says_what_is_wrong() -> None:
    said: list[str] = []

    def refuse(name: str) -> None:
        raise ValueError(name)

    verdicts = Verdicts()
    for name, is_good in {"a": True, "b": False, "c": False}.items():
        verdicts.ask(torch.tensor([is_good]), partial(refuse, name))
    with pytest.raises(ValueError, match="b"):
        verdicts.refuse()

    fine = Verdicts()
    fine.ask(torch.tensor(True), partial(said.append, "a"))
    fine.refuse()
    Verdicts().refuse()
    assert said == []
    assert answers([torch.tensor(True), torch.tensor(False)]) == [True, False]


def test_a_bad_scale_among_many_is_named_and_so_is_a_weight_that_is_no_number(newer_folder) -> None:
    model, update = fp8load.load(FOLDER / NAMES[0]), newer(stored(FOLDER / NAMES[0]))
    bad = "model.layers.1.mlp.up_proj.weight_scale"
    with pytest.raises(LoadError, match=rf"FILL725[\s\S]*{bad}[\s\S]*nan at"):
        model.reload({**update, bad: torch.full_like(update[bad], float("nan"))})

    weight = "model.layers.1.mlp.up_proj.weight"
    wide = update[weight].bfloat16()
    wide[3, 5] = float("inf")
    alone = {name: tensor for name, tensor in update.items() if name != bad}
    with pytest.raises(LoadError, match=rf"FILL726[\s\S]*{weight}[\s\S]*inf at \[3, 5\]"):
        model.reload({**alone, weight: wide})
