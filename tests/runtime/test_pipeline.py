"""Parts of the reading pipeline: batches, reads past the page cache, lanes of a device, what an error leaves behind."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fp8load
from fp8load.errors import LoadError, SourceError
from fp8load.runtime import execute, files, lanes, memory, pinned
from fp8load.runtime.batches import MAX_SEGMENTS, batches
from fp8load.runtime.cold import ColdReads
from fp8load.runtime.files import Files
from fp8load.runtime.segments import PAGE, Direct
from fp8load.source.memory import MemorySource

FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "checkpoints"


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 500), st.integers(1, 60)), max_size=40),
    st.integers(1, 200), st.integers(0, 50),
)  # fmt: skip
def test_batches_hold_every_segment_once_and_no_more_than_the_gaps_between(
    places: list[tuple[str, int, int]], limit: int, gap: int
) -> None:
    found = sorted((Direct(file, at, torch.empty(size, dtype=torch.uint8)) for file, at, size in places),
                   key=lambda it: (it.file, it.begin))  # fmt: skip

    made = list(batches(found, limit, gap))

    assert [id(each.target) for batch in made for each in batch.segments] == [id(each.target) for each in found]
    for batch in made:
        assert {each.file for each in batch.segments} == {batch.file}
        assert batch.begin == min(each.begin for each in batch.segments)
        assert batch.end == max(each.end for each in batch.segments)
        assert len(batch.segments) == 1 or batch.nbytes <= limit
        assert len(batch.segments) <= MAX_SEGMENTS
        wanted = {byte for each in batch.segments for byte in range(each.begin, each.end)}
        assert batch.nbytes - len(wanted) <= gap * (len(batch.segments) - 1)
        if gap == 0:
            assert batch.nbytes == sum(each.end - each.begin for each in batch.segments)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A file of 2 pages and a half of random bytes, and these; no checkpoint."""
    content = torch.randint(0, 256, (2 * PAGE + PAGE // 2,), dtype=torch.uint8).numpy().tobytes()
    path = tmp_path_factory.mktemp("cold") / "f"
    path.write_bytes(content)
    return path, content


@settings(deadline=None, max_examples=50)
@given(data=st.data(), past=st.booleans())
def test_reads_past_the_page_cache_give_the_same_bytes(
    stored: tuple[Path, bytes], data: st.DataObject, past: bool
) -> None:
    path, content = stored
    begin = data.draw(st.integers(0, len(content) - 1))
    end = data.draw(st.integers(begin + 1, len(content)))
    buffer = torch.empty(len(content) + 4 * PAGE, dtype=torch.uint8)
    buffer = buffer[-buffer.data_ptr() % PAGE :]
    with pytest.MonkeyPatch.context() as patch, Files(MemorySource({}), past_cache=True) as opened:
        patch.setattr(files, "_read_cached", lambda *_: 0)
        patch.setattr(ColdReads, "LEAST_NBYTES", 1)
        patch.setattr(ColdReads, "direct", lambda self: past)
        descriptor = opened._open_direct(path)
        if descriptor is None:
            pytest.skip("the file system has no O_DIRECT")
        opened._direct["f"] = descriptor
        with path.open("rb") as file:
            opened._descriptors["f"] = file.fileno()
            opened.read_pages("f", begin, end, buffer.numpy().data)

    assert buffer.numpy().tobytes()[begin % PAGE :][: end - begin] == content[begin:end]


@pytest.mark.parametrize("faster", [True, False])
def test_of_two_ways_to_read_the_faster_one_is_kept(faster: bool) -> None:
    cold = ColdReads()
    tried = []
    for _ in range(2 * ColdReads.TRIALS):
        tried.append(cold.direct())
        cold.took(direct=tried[-1], nbytes=100, seconds=1 if tried[-1] == faster else 2)

    assert sum(tried) == ColdReads.TRIALS
    assert [cold.direct() for _ in range(5)] == [faster] * 5


def test_a_tensor_larger_than_a_buffer_is_placed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "in_place", lambda device: False)
    plan = fp8load.open(FOLDER / "hf-gptoss-mxfp4").plan()
    usual = plan.load()
    monkeypatch.setattr(lanes, "BUFFER_NBYTES", 700)
    monkeypatch.setattr(pinned, "BUFFER_NBYTES", 700)
    monkeypatch.setattr(pinned, "PART_NBYTES", 4096)

    small = plan.load()

    for name, tensor in usual.tensors.items():
        assert torch.equal(tensor, small.tensors[name]), name
    for name, layer in usual.items():
        twins = dict(small[name].named_parameters())
        assert all(torch.equal(param.view(torch.uint8), twins[key].view(torch.uint8))
                   for key, param in layer.named_parameters())  # fmt: skip


def test_pieces_that_do_not_lie_at_multiples_of_their_size_are_placed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header of another length moves every tensor by a byte, which the format allows."""
    source = FOLDER / "ct-llamaodd-fp8-block" / "model.safetensors"
    data = source.read_bytes()
    length = int.from_bytes(data[:8], "little")
    for file in filter(Path.is_file, source.parent.iterdir()):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / source.name).write_bytes(
        (length + 1).to_bytes(8, "little") + data[8 : 8 + length] + b" " + data[8 + length :]
    )
    usual = fp8load.load(source.parent)
    monkeypatch.setattr(execute, "in_place", lambda device: False)

    moved = fp8load.load(tmp_path)

    for name, layer in usual.items():
        assert torch.equal(layer.dequantize(), moved[name].dequantize())


def test_after_an_error_no_thread_is_left_and_no_lane_unfinished(monkeypatch: pytest.MonkeyPatch) -> None:
    finished: list[lanes.DeviceLane] = []
    monkeypatch.setattr(execute, "in_place", lambda device: False)
    for module in (lanes, pinned, execute):
        monkeypatch.setattr(module, "BUFFER_NBYTES", 4096)
    finish = lanes.DeviceLane.finish
    monkeypatch.setattr(lanes.DeviceLane, "finish", lambda self: (finished.append(self), finish(self))[1])
    reads = iter(range(10**9))
    read = files.os.preadv

    def failing(descriptor: int, buffers: list[memoryview], at: int) -> int:
        if next(reads) > 5:
            raise OSError(5, "Input/output error")
        return read(descriptor, buffers, at)

    monkeypatch.setattr(files.os, "preadv", failing)
    before = threading.active_count()

    with pytest.raises(SourceError, match=r"model\.safetensors[\s\S]*Input/output error"):
        fp8load.load(FOLDER / "ct-phi3-fp8-static-kv")

    assert finished
    assert threading.active_count() == before


def test_a_progress_that_raises_ends_the_load_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ctrl-C does: KeyboardInterrupt reaches the thread that waits."""

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    before, start = threading.active_count(), time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fp8load.load(FOLDER / "ct-phi3-fp8-static-kv", progress=interrupt)

    assert threading.active_count() == before
    assert time.monotonic() - start < 20


def test_too_little_memory_is_an_error_that_says_how_much_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(memory, "_on_device", full)
    plan = fp8load.open(FOLDER / "ct-phi3-fp8-static-kv").plan()

    with pytest.raises(LoadError, match=r"(?s)FILL731.*embed_tokens.*expected.*got.*tp_size"):
        memory.allocate(plan.params.values(), torch.device("cuda"))
