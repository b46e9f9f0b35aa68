"""The checkpoints of the loading benchmark are sound, of the size that was asked for, and are measured when small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fp8load
from benchmarks import loading_gpu
from benchmarks.loading_gpu import DeepSeek, Llama, Shape, make

TINY = {
    "llama": Llama(hidden=256, intermediate=512, heads=4, kv_heads=2, vocab=100, layers=2),
    "deepseek": DeepSeek(hidden=256, intermediate=512, moe_intermediate=128, heads=2, q_rank=128, kv_rank=128, nope=64,
                         rope=64, vocab=100, experts=8, layers=2),
}  # fmt: skip


@pytest.mark.parametrize("name", TINY)
def test_a_small_one_verifies_plans_and_loads(name: str, tmp_path: Path) -> None:
    total = make(tmp_path / name, TINY[name], 3)

    with fp8load.open(tmp_path / name) as checkpoint:
        checkpoint.verify(level="weights").raise_for_errors()
        model = checkpoint.plan().load()
    assert checkpoint.index.nbytes == total
    assert len(checkpoint.index.files) == 3
    assert model.stats.nbytes == total
    assert {"llama": "model.layers.1.mlp.gate_up_proj", "deepseek": "model.layers.1.mlp.experts"}[name] in model


@pytest.mark.parametrize(("shape", "gigabytes"), [(Llama(), 10), (Llama(), 40), (DeepSeek(), 10), (DeepSeek(), 40)])
def test_as_many_layers_or_experts_as_the_size_asks_for(shape: Shape, gigabytes: int) -> None:
    sized = shape.sized(gigabytes * 1e9)
    total = sum(each.nbytes for each in sized.tensors())

    assert abs(total - gigabytes * 1e9) < 6e9
    assert total > 0.8 * gigabytes * 1e9


def test_both_are_measured_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fp8load.runtime.bench import limits

    monkeypatch.setitem(limits.LINK_NBYTES, "cpu", 1 << 20)
    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.setenv("RUNS", "1")
    for name, shape in TINY.items():
        kind = type(shape)
        monkeypatch.setattr(kind, "sized", lambda self, nbytes, name=name: TINY[name])
    loading_gpu.main([str(tmp_path / "out.json"), "0.001"])

    found = json.loads((tmp_path / "out.json").read_text())
    assert found.keys() == {"llama-70b-channel", "deepseek-v3-block"}
    assert all(report["rows"] and not any(one["failed"] for one in report["not_measured"]) for report in found.values())
    assert capsys.readouterr().out.count("sealed, prepared model") == 2
