"""The reading pipeline: whatever the sizes of reads, bytes land in the same places; changed files are refused."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
import torch

import fp8load
from fp8load.errors import ChangedError, NotFoundError, SourceError
from fp8load.index.build import build_index
from fp8load.runtime import execute, files, segments
from fp8load.runtime.model import LoadedModel
from fp8load.source.memory import MemorySource

FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "checkpoints"


PLANNED = sorted(
    path.name
    for path in FOLDER.iterdir()
    if path.is_dir() and path.name != "ctmf-gptoss-mxfp4a16"  # broken
)


def same(one: LoadedModel, other: LoadedModel) -> None:
    """Every parameter and tensor is equal, byte for byte."""
    assert one.keys() == other.keys()
    assert one.tensors.keys() == other.tensors.keys()
    for name, layer in one.items():
        twins = dict(other[name].named_parameters())
        for key, param in layer.named_parameters():
            assert torch.equal(param.detach().view(torch.uint8), twins[key].detach().view(torch.uint8)), (name, key)
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, other.tensors[name]), name


@pytest.mark.parametrize("chunk", [64, 1000, 4096])
@pytest.mark.parametrize("tp_size", [1, 2])
def test_small_reads_give_the_same_model(chunk: int, tp_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = fp8load.open(FOLDER / "ct-phi3-fp8-static-kv").plan(tp_rank=tp_size - 1, tp_size=tp_size)
    usual = plan.load()

    monkeypatch.setattr(segments, "CHUNK_NBYTES", chunk)
    monkeypatch.setattr(execute, "CHUNK_NBYTES", chunk)

    same(usual, plan.load())


def test_short_reads_are_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may return less than was asked for; every read here returns at most seven bytes."""
    plan = fp8load.open(FOLDER / "mo-qwen2-fp8").plan()
    usual, read = plan.load(), os.preadv

    def short(descriptor: int, buffers: list[memoryview], at: int) -> int:
        return read(descriptor, [buffers[0][:7]], at)

    monkeypatch.setattr(files.os, "preadv", short)

    same(usual, plan.load())


def test_files_in_memory_load_like_files_on_a_disk() -> None:
    folder = FOLDER / "hf-qwen3-fp8-pertensor"
    source = MemorySource({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})
    from fp8load.checkpoint import Checkpoint

    model = Checkpoint(source, build_index(source)).plan().load()

    same(model, fp8load.load(folder))


def test_progress_ends_with_every_byte_read() -> None:
    plan = fp8load.open(FOLDER / "ct-llama128-fp8-static").plan()
    seen: list[tuple[int, int]] = []

    plan.load(progress=lambda done, total: seen.append((done, total)))

    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] == plan.index.nbytes


def test_a_model_says_how_many_bytes_it_took_and_how_long() -> None:
    plan = fp8load.open(FOLDER / "ct-llama128-fp8-static").plan()

    before = time.perf_counter()
    stats = plan.load().stats
    passed = time.perf_counter() - before

    assert stats.nbytes == plan.nbytes_read
    assert 0 < stats.seconds_read < stats.seconds <= passed


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkpoint of one file that may be damaged."""
    return Path(shutil.copytree(FOLDER / "ct-phi3-fp8-static-kv", tmp_path / "copy"))


def test_a_file_that_shrank_after_planning_is_refused(copy: Path) -> None:
    plan = fp8load.open(copy).plan()
    file = copy / "model.safetensors"
    os.truncate(file, file.stat().st_size - 1)

    with pytest.raises(ChangedError, match=r"model\.safetensors"):
        plan.load()


def test_a_file_that_is_gone_is_refused(copy: Path) -> None:
    plan = fp8load.open(copy).plan()
    (copy / "model.safetensors").unlink()

    with pytest.raises(NotFoundError, match=r"model\.safetensors"):
        plan.load()


def test_a_file_that_ends_while_it_is_read_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = fp8load.open(copy).plan()
    monkeypatch.setattr(files.os, "preadv", lambda *_: 0)

    with pytest.raises(ChangedError, match=r"model\.safetensors"):
        plan.load()


def test_a_failing_disk_is_an_error_that_names_the_file_and_stops_the_other_reads(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = fp8load.open(copy).plan()
    monkeypatch.setattr(segments, "CHUNK_NBYTES", 512)
    monkeypatch.setattr(execute, "CHUNK_NBYTES", 512)
    calls: list[int] = []

    def failing(descriptor: int, buffers: list[memoryview], at: int) -> int:
        calls.append(at)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files.os, "preadv", failing)

    with pytest.raises(SourceError, match=r"model\.safetensors[\s\S]*Input/output error"):
        plan.load()
    assert len(calls) <= 3 * execute.num_threads(plan.source)


@pytest.fixture
def through_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load as for a device: through buffers, in batches with gaps, placed from memory of the device; here the CPU's."""
    monkeypatch.setattr(execute, "in_place", lambda device: False)


@pytest.mark.usefixtures("through_buffers")
@pytest.mark.parametrize("name", PLANNED)
def test_what_is_placed_on_a_device_is_what_is_read_in_place(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = fp8load.open(FOLDER / name).plan()
    through = plan.load()
    monkeypatch.setattr(execute, "in_place", lambda device: True)

    same(through, plan.load())
