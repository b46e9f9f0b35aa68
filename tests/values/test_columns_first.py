"""A weight that lies columns first is read in bounded memory, and every band is a band of the whole one turned."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fp8load
from fp8load.checkpoint import Checkpoint
from fp8load.dtypes import DType
from fp8load.formats.lowered import ModuleInfo
from fp8load.index.index import TensorMeta
from fp8load.rules.weights import WeightReader
from fp8load.scheme import Repack, Role
from fp8load.source.memory import MemorySource
from fp8load.swizzle import packed_in_order
from fp8load.values.compare import distance_of
from fp8load.values.dequantize import real_rows
from fp8load.values.matrix import matrix_of
from fp8load.values.read import TURNED, bands
from oracle.dequantize import Stored
from oracle.rewrite import write_file

BLOCKS = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 32]}
NUM_ROWS, NUM_COLS = 1008, 3200
BAND = 16 << 10
"""Bytes of a band: a weight has 197 of them."""

SOME = 20 * BAND
"""What else is there: a piece of the file, and a band as numbers of 8 bytes, which index the table of values, and 4."""


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experts [N, K] in blocks of 16 x 32, each stored as [K, N] and its scales as [K / 32, N / 16]."""
    rng = np.random.default_rng(7)
    codes = rng.integers(0, 0x7F, (2, NUM_COLS, NUM_ROWS), dtype=np.uint8)
    scale = rng.uniform(1e-3, 2e-3, (2, NUM_COLS // 32, NUM_ROWS // 16)).astype(np.float32)
    folder = tmp_path_factory.mktemp("experts")
    (folder / "config.json").write_text(json.dumps({"quantization_config": BLOCKS}))
    name = "model.layers.0.mlp.experts.down_proj"
    write_file(folder / "model.safetensors", {
        f"{name}.weight": Stored("F8_E4M3", codes.shape, codes.tobytes()),
        f"{name}.weight_scale_inv": Stored("F32", scale.shape, scale.tobytes()),
    })  # fmt: skip
    return folder


def module_of(checkpoint: Checkpoint) -> ModuleInfo:
    info = list(checkpoint.lowered.modules.values())[-1]
    assert info.transposed == {Role.WEIGHT, Role.WEIGHT_SCALE}
    return info


def peak(work: Callable[[], object]) -> int:
    """Bytes that the work holds at once, numpy's included."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def read_all(checkpoint: Checkpoint) -> None:
    rows = real_rows(checkpoint, module_of(checkpoint), nbytes=BAND)
    assert rows is not None
    for _ in rows:
        pass


def test_dequantizing_holds_some_bands_and_not_the_weight(experts: Path) -> None:
    with fp8load.open(experts) as checkpoint:
        read_all(checkpoint)  # tables of codes, and whatever else stays
        held = peak(lambda: read_all(checkpoint))

    assert held < TURNED * BAND + SOME < NUM_ROWS * NUM_COLS / 4


def test_measuring_and_comparing_hold_some_bands_and_not_the_weight(
    experts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fp8load.rules.weights.CHUNK", BAND)
    monkeypatch.setattr("fp8load.rules.weights.NUM_SAMPLES", 4096)
    monkeypatch.setattr("fp8load.values.compare.BAND", BAND)
    monkeypatch.setattr("fp8load.values.matrix.WINDOW", TURNED * BAND)
    with fp8load.open(experts) as checkpoint:
        info = module_of(checkpoint)
        measure = WeightReader(checkpoint)._measure

        def compare() -> None:
            here, there = matrix_of(checkpoint, info.name), matrix_of(checkpoint, info.name)
            assert here is not None
            assert there is not None
            assert distance_of(here, there) == (float("inf"), 0.0)

        measure((info.tensors[Role.WEIGHT], info))
        compare()

        assert peak(lambda: measure((info.tensors[Role.WEIGHT], info))) < TURNED * BAND + SOME
        assert peak(compare) < 2 * (TURNED * BAND + 2 * SOME) < NUM_ROWS * NUM_COLS


@pytest.mark.parametrize("nbytes", [1, 5000, BAND, 1 << 30])
def test_bands_and_windows_are_rows_of_the_whole_weight(
    experts: Path, monkeypatch: pytest.MonkeyPatch, nbytes: int
) -> None:
    monkeypatch.setattr("fp8load.values.matrix.WINDOW", 16 * nbytes)
    with fp8load.open(experts) as checkpoint:
        info = module_of(checkpoint)
        meta = info.tensors[Role.WEIGHT]
        if nbytes == 1:  # a row at a time: of a small weight, or the file is read 63 times
            meta = meta._replace(shape=(40, 90), end=meta.begin + 3600)
        data = checkpoint.source.read(meta.file, meta.begin, meta.end)
        whole = np.frombuffer(data, np.uint8).reshape(meta.shape[::-1]).T
        found = list(bands(checkpoint, meta, columns_first=True, nbytes=nbytes))
        matrix = matrix_of(checkpoint, info.name)
        assert matrix is not None
        first, second = matrix.rows(3, 9), matrix.rows(0, 5)

        assert np.array_equal(np.concatenate([raw for _, raw in found]), whole)
        assert [begin for begin, _ in found] == list(np.cumsum([0, *(len(raw) for _, raw in found[:-1])]))
        assert np.array_equal(first[:2], second[3:])
        assert np.array_equal(matrix.rows(0, NUM_ROWS)[:5], second)


@pytest.mark.parametrize("repack", [Repack.SWAP_NIBBLES, Repack.REMOVE_OFFSET, Repack.ORDER_WORDS])
@pytest.mark.parametrize("nbytes", [1, 30, 1 << 20])
def test_words_of_packed_elements_stay_whole(repack: Repack, nbytes: int) -> None:
    data = np.random.default_rng(1).integers(0, 256, 6 * 10, dtype=np.uint8)
    meta = TensorMeta("a", DType.I4, (6, 20), "f", 0, 60)
    checkpoint = SimpleNamespace(
        source=MemorySource({"f": data.tobytes()}), lowered=SimpleNamespace(repacks={"a": repack})
    )

    found = [raw for _, raw in bands(checkpoint, meta, columns_first=True, nbytes=nbytes)]

    assert np.array_equal(np.concatenate(found), packed_in_order(data, repack).reshape(10, 6).T)
