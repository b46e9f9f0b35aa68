"""Repairs that meet: on one weight, in the index; and what is not worked out, because nobody asked for it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

import fp8load
from fp8load.errors import UsageError
from fp8load.rules.f8l921_head_tie import TIED
from fp8load.rules.repairs import f8l921
from fp8load.rules.samples import LLAMA
from fp8load.writing.actions import Remake
from fp8load.writing.changes import changes_of
from rules.repair_cases import Case
from rules.test_repairs import on_disk


def remade(ckpt, what: str) -> Remake:
    weight = next(meta for meta in ckpt.index.tensors.values() if meta.dtype.is_fp8)
    return Remake(weight, weight.dtype, weight.shape, partial(iter, ()), what)


def test_two_repairs_that_make_one_weight_anew_are_refused(tmp_path: Path) -> None:
    """Each counts on its own scale: the weight of one beside the scale of both would be another weight."""
    with (
        fp8load.open(on_disk(Case(LLAMA), tmp_path / "it")) as ckpt,
        pytest.raises(UsageError, match="USE023"),
    ):
        changes_of(ckpt.source, ckpt.index, [remade(ckpt, "one"), remade(ckpt, "other")])


def test_a_tensor_that_becomes_shorter_than_its_header_says_stops_the_copy(tmp_path: Path) -> None:
    with fp8load.open(on_disk(Case(LLAMA), tmp_path / "it")) as ckpt:
        changes = changes_of(ckpt.source, ckpt.index, [remade(ckpt, "one")])

        with pytest.raises(ValueError, match="0 bytes were made of it"):
            changes.write(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_nobody_asked_for_is_not_read(tmp_path: Path, monkeypatch) -> None:
    """A tied head is compared with the embedding only where that repair is asked for."""
    with fp8load.open(on_disk(Case(TIED), tmp_path / "it")) as ckpt:
        asked = []
        monkeypatch.setattr(f8l921, "_same", lambda *_: asked.append(1))

        ckpt.fix(["F8L202"], level="headers")
        ckpt.fix(level="headers")
        assert not asked
        ckpt.fix(["F8L921"], level="headers")
        assert asked


def test_the_index_follows_what_is_written(tmp_path: Path) -> None:
    """One repair completes the index, another drops the same scale; and the sum is that of what is left."""
    folder = on_disk(Case(LLAMA + "model.layers.0.input_layernorm.weight_scale_inv F32 [2]\n"), tmp_path / "it")
    with fp8load.open(folder) as ckpt:
        files = {name: meta.file for name, meta in ckpt.index.tensors.items() if "layernorm.weight_scale" not in name}
    index = {"metadata": {"total_size": 1}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    with fp8load.open(folder) as ckpt:
        ckpt.fix(["F8L005", "F8L202", "F8L012"]).write(tmp_path / "out")

    after = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    with fp8load.open(tmp_path / "out") as ckpt:
        assert set(after["weight_map"]) == set(ckpt.index.tensors)
        assert not any("layernorm.weight_scale" in name for name in after["weight_map"])
        assert after["metadata"]["total_size"] == sum(meta.nbytes for meta in ckpt.index.tensors.values())
