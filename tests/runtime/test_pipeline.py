"""Parts of the reading pipeline: batches, reads past the page cache, lanes of a device, what an error leaves behind."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import threading
import time
import weakref
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fp8load
from fp8load.errors import ChangedError, LoadError, SourceError
from fp8load.runtime import ahead, aio_reads, execute, files, lanes, memory, posix_aio
from fp8load.runtime.batches import MAX_SEGMENTS, batches
from fp8load.runtime.cold import ColdReads
from fp8load.runtime.files import Files
from fp8load.runtime.pinned import Buffer, Filled
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


class Range(NamedTuple):
    file: str
    begin: int
    end: int


@pytest.mark.parametrize("by", ["a thread of Python", "the C library"])
@settings(deadline=None, max_examples=50)
@given(data=st.data(), past=st.booleans())
def test_reads_past_the_page_cache_give_the_same_bytes(
    stored: tuple[Path, bytes], by: str, data: st.DataObject, past: bool
) -> None:
    path, content = stored
    begin = data.draw(st.integers(0, len(content) - 1))
    end = data.draw(st.integers(begin + 1, len(content)))
    filled = Filled(Range("f", begin, end), Buffer(torch.device("cpu"), end - begin))
    with pytest.MonkeyPatch.context() as patch, Files(MemorySource({}), past_cache=True) as opened:
        patch.setattr(files, "_is_cached", lambda *_: False)
        patch.setattr(ColdReads, "LEAST_NBYTES", 1)
        patch.setattr(ColdReads, "direct", lambda self: past)
        patch.setattr(aio_reads, "PART_NBYTES", PAGE)
        descriptor = opened._open_direct(path)
        if descriptor is None:
            pytest.skip("the file system has no O_DIRECT")
        opened._direct["f"] = descriptor
        with path.open("rb") as file:
            opened._descriptors["f"] = file.fileno()
            if by == "the C library":
                assert all_of([filled], opened) == [filled]
            else:
                opened.read_pages("f", begin, end, filled.buffer.memory.numpy().data)

    assert filled.data.numpy().tobytes() == content[begin:end]


def test_a_read_past_the_page_cache_that_ends_before_its_range_begins_is_continued(
    stored: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a read begins with the page; a disk may give a sector of it."""
    if not posix_aio.is_available():
        pytest.skip("this system has no POSIX AIO")
    path, content = stored
    answers, wait = iter([512]), posix_aio.AsyncReads.wait
    monkeypatch.setattr(
        posix_aio.AsyncReads, "wait", lambda self: [(slot, next(answers, answer)) for slot, answer in wait(self)]
    )
    monkeypatch.setattr(files, "_is_cached", lambda *_: False)
    monkeypatch.setattr(ColdReads, "LEAST_NBYTES", 1)
    filled = Filled(Range("f", PAGE - 1000, 2 * PAGE), Buffer(torch.device("cpu"), PAGE + 1000))
    with Files(MemorySource({}), past_cache=True) as opened, path.open("rb") as file:
        opened._descriptors["f"] = opened._direct["f"] = file.fileno()
        assert all_of([filled], opened) == [filled]

    assert filled.data.numpy().tobytes() == content[PAGE - 1000 : 2 * PAGE]


@pytest.mark.parametrize("nbytes", [1, PAGE, 700_001])
def test_a_buffer_begins_at_a_page_and_has_room_for_a_page_on_either_side(nbytes: int) -> None:
    """Else reads past the page cache are refused, and files are read through it without a word."""
    buffer = Buffer(torch.device("cpu"), nbytes)

    assert buffer.memory.data_ptr() % PAGE == 0
    assert len(buffer.memory) >= nbytes + 2 * PAGE


def num_open() -> int:
    """Files that this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def all_of(wanted: list[Filled[Range]], opened: Files) -> list[Filled[Range]]:
    """Read by the C library, in the order in which they come."""
    pending, found = list(wanted), []
    reads: aio_reads.AioReads[Range] = aio_reads.AioReads(opened)
    try:
        while True:
            while reads.has_room and (reads.has_part or pending):
                if reads.has_part:
                    reads.start()
                else:
                    reads.begin(pending.pop(0))
            if reads.is_idle:
                return found
            found += reads.wait()
    finally:
        reads.finish()


@pytest.fixture(params=["threads", "the C library"])
def as_for_a_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Load as for a device, whose memory is the CPU's, in each of two ways to read."""
    monkeypatch.setattr(execute, "in_place", lambda device: False)
    if request.param == "threads":
        monkeypatch.setattr(posix_aio, "is_available", lambda: False)
    elif not posix_aio.is_available():
        pytest.skip("this system has no POSIX AIO")
    return str(request.param)


@pytest.mark.parametrize("faster", [True, False])
def test_of_two_ways_to_read_the_faster_one_is_kept(faster: bool) -> None:
    cold = ColdReads()
    tried = []
    for _ in range(2 * ColdReads.TRIALS):
        tried.append(cold.direct())
        cold.took(direct=tried[-1], nbytes=100, seconds=1 if tried[-1] == faster else 2)

    assert sum(tried) == ColdReads.TRIALS
    assert [cold.direct() for _ in range(5)] == [faster] * 5


@pytest.mark.usefixtures("as_for_a_device")
def test_a_tensor_larger_than_a_buffer_is_placed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = fp8load.open(FOLDER / "hf-gptoss-mxfp4").plan()
    usual = plan.load()
    monkeypatch.setattr(ahead, "BUFFER_NBYTES", 700)

    small = plan.load()

    for name, tensor in usual.tensors.items():
        assert torch.equal(tensor, small.tensors[name]), name
    for name, layer in usual.items():
        twins = dict(small[name].named_parameters())
        assert all(torch.equal(param.view(torch.uint8), twins[key].view(torch.uint8))
                   for key, param in layer.named_parameters())  # fmt: skip


@pytest.mark.usefixtures("as_for_a_device")
def test_pieces_that_do_not_lie_at_multiples_of_their_size_are_placed(tmp_path: Path) -> None:
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

    moved = fp8load.load(tmp_path)

    for name, layer in usual.items():
        assert torch.equal(layer.dequantize(), moved[name].dequantize())


def test_after_an_error_no_thread_is_left_and_every_copy_was_waited_for(
    as_for_a_device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished: list[lanes.Slot] = []
    monkeypatch.setattr(ahead, "BUFFER_NBYTES", 4096)
    monkeypatch.setattr(execute, "BUFFER_NBYTES", 4096)
    finish = lanes.Slot.finish
    monkeypatch.setattr(lanes.Slot, "finish", lambda self: (finished.append(self), finish(self))[1])
    reads, read, wait = iter(range(10**9)), files.os.preadv, posix_aio.AsyncReads.wait

    def failing(descriptor: int, buffers: list[memoryview], at: int, flags: int = 0) -> int:
        if next(reads) > 5:
            raise OSError(5, "Input/output error")
        return read(descriptor, buffers, at, flags)

    def failing_later(self: posix_aio.AsyncReads) -> list[tuple[int, int | OSError]]:
        broken = OSError(5, "Input/output error")
        return [(slot, broken if next(reads) > 5 else answer) for slot, answer in wait(self)]

    if as_for_a_device == "threads":
        monkeypatch.setattr(files.os, "preadv", failing)
    else:
        monkeypatch.setattr(posix_aio.AsyncReads, "wait", failing_later)
    before, open_before = threading.active_count(), num_open()

    with pytest.raises(SourceError, match=r"model\.safetensors[\s\S]*Input/output error"):
        fp8load.load(FOLDER / "ct-phi3-fp8-static-kv")

    assert len(finished) == lanes.NUM_SLOTS
    assert threading.active_count() == before
    assert num_open() == open_before


@pytest.mark.parametrize("device", ["cpu", "another"])
def test_a_header_that_the_disk_does_not_give_is_an_error_of_the_file(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> int:
        raise OSError(5, "Input/output error")

    plan = fp8load.open(FOLDER / "mo-qwen2-fp8").plan()
    monkeypatch.setattr(execute, "in_place", lambda _: device == "cpu")
    monkeypatch.setattr(files.os, "pread", failing)
    monkeypatch.setattr(files.os, "preadv", failing)

    with pytest.raises(SourceError, match=r"SRC006[\s\S]*model.*\.safetensors[\s\S]*Input/output error"):
        plan.load()


def test_a_file_system_that_wants_more_of_reads_past_the_cache_than_pages_is_read_through_it(
    as_for_a_device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = FOLDER / "mo-qwen2-fp8"
    usual, refused = fp8load.load(folder), set()
    monkeypatch.setattr(files, "_is_cached", lambda *_: False)
    monkeypatch.setattr(ColdReads, "LEAST_NBYTES", 1)
    monkeypatch.setattr(ColdReads, "direct", lambda self: True)
    read, start, wait = files.os.preadv, posix_aio.AsyncReads.start, posix_aio.AsyncReads.wait
    is_direct = set()

    def only_plain(descriptor: int, buffers: list[memoryview], at: int) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            refused.add(descriptor)
            raise OSError(errno.EINVAL, "Invalid argument")
        return read(descriptor, buffers, at)

    def started(self: posix_aio.AsyncReads, wanted: list[posix_aio.Read]) -> list[int]:
        slots = start(self, wanted)
        for slot, one in zip(slots, wanted, strict=True):
            direct = fcntl.fcntl(one.descriptor, fcntl.F_GETFL) & os.O_DIRECT
            (is_direct.add if direct else is_direct.discard)(slot)
        return slots

    def waited(self: posix_aio.AsyncReads) -> list[tuple[int, int | OSError]]:
        ended = wait(self)
        refused.update(slot for slot, _ in ended if slot in is_direct)
        return [(slot, OSError(errno.EINVAL, "") if slot in is_direct else answer) for slot, answer in ended]

    if as_for_a_device == "threads":
        monkeypatch.setattr(files.os, "preadv", only_plain)
    monkeypatch.setattr(posix_aio.AsyncReads, "start", started)
    monkeypatch.setattr(posix_aio.AsyncReads, "wait", waited)

    again = fp8load.load(folder)

    assert refused
    for name, layer in usual.items():
        assert torch.equal(layer.dequantize(), again[name].dequantize())


@pytest.mark.usefixtures("as_for_a_device")
@pytest.mark.parametrize("share", [0, 0.5])
def test_reads_of_the_c_library_that_come_back_short_are_continued_and_a_file_that_ends_is_refused(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not posix_aio.is_available():
        pytest.skip("threads of Python: test_execute")
    folder = FOLDER / "mo-qwen2-fp8"
    usual, wait = fp8load.load(folder), posix_aio.AsyncReads.wait

    def short(self: posix_aio.AsyncReads) -> list[tuple[int, int | OSError]]:
        return [
            (slot, answer if isinstance(answer, OSError) or answer == 1 else int(answer * share))
            for slot, answer in wait(self)
        ]

    monkeypatch.setattr(posix_aio.AsyncReads, "wait", short)
    if share == 0:
        with pytest.raises(ChangedError, match=r"model.*\.safetensors"):
            fp8load.load(folder)
        return
    again = fp8load.load(folder)
    for name, layer in usual.items():
        assert torch.equal(layer.dequantize(), again[name].dequantize())


def test_no_more_files_are_open_at_once_than_there_are_reads(tmp_path: Path) -> None:
    """A checkpoint has hundreds of shards, and a process may have a thousand files open."""
    if not posix_aio.is_available():
        pytest.skip("this system has no POSIX AIO")
    reads = posix_aio.AsyncReads(3)
    memory = torch.empty(4, dtype=torch.uint8)
    before = num_open()
    opened = []
    try:
        for at in range(20):
            path = tmp_path / str(at)
            path.write_bytes(bytes([at] * 4))
            opened.append(os.open(path, os.O_RDONLY))
            reads.start([posix_aio.Read(opened[-1], memory.data_ptr(), 4, 0)])
            while not reads.is_idle:
                assert [answer for _, answer in reads.wait()] in ([4], [])
            assert memory.tolist() == [at] * 4
            assert num_open() <= before + len(opened) + 3
    finally:
        reads.finish()
        for descriptor in opened:
            os.close(descriptor)
    assert num_open() == before


@pytest.mark.usefixtures("as_for_a_device")
def test_a_file_in_the_page_cache_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five hundred shards, twice is more than a process may have by default."""
    opened: list[Path] = []
    monkeypatch.setattr(ColdReads, "LEAST_NBYTES", 1)
    monkeypatch.setattr(files, "_is_cached", lambda *_: True)
    monkeypatch.setattr(Files, "_open_direct", lambda self, path: opened.append(path))

    fp8load.load(FOLDER / "ct-llama128-fp8-static")
    assert opened == []

    monkeypatch.setattr(files, "_is_cached", lambda *_: False)
    fp8load.load(FOLDER / "ct-llama128-fp8-static")
    assert opened != []
    assert len(opened) == len(set(opened))  # it is asked for once, also where there is none


def test_a_read_that_the_system_refuses_is_its_error(tmp_path: Path) -> None:
    if not posix_aio.is_available():
        pytest.skip("this system has no POSIX AIO")
    reads = posix_aio.AsyncReads(1)
    write_only = os.open(tmp_path / "f", os.O_WRONLY | os.O_CREAT)
    try:
        reads.start([posix_aio.Read(write_only, torch.empty(4, dtype=torch.uint8).data_ptr(), 4, 0)])
        ((_, answer),) = reads.wait()
        assert isinstance(answer, OSError)
        assert answer.errno == errno.EBADF
    finally:
        reads.finish()
        os.close(write_only)


def test_a_read_that_finds_no_free_descriptor_ends_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with nothing to wait for: one that had begun has ended, the others never began."""
    if not posix_aio.is_available():
        pytest.skip("this system has no POSIX AIO")
    path, memory = tmp_path / "f", torch.zeros(4, dtype=torch.uint8)
    path.write_bytes(b"\1\2\3\4")
    reads, before, dup = posix_aio.AsyncReads(4), num_open(), os.dup
    left = iter([True, True])

    def scarce(descriptor: int) -> int:
        if next(left, False):
            return dup(descriptor)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(posix_aio.os, "dup", scarce)
    with path.open("rb") as file:
        reads.start([posix_aio.Read(file.fileno(), memory.data_ptr(), 1, 0)])
        with pytest.raises(OSError, match="Too many open files"):
            reads.start([posix_aio.Read(file.fileno(), memory.data_ptr() + at, 1, at) for at in (1, 2, 3)])
        assert reads.room == 3
        reads.finish()

    assert reads.is_idle
    assert memory.tolist() == [1, 0, 0, 0]
    assert num_open() == before


def test_memory_that_is_read_into_stays_when_nobody_waits_for_the_end(
    stored: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second Ctrl-C, while a slow disk is waited for after the first: the C library still writes."""
    if not posix_aio.is_available():
        pytest.skip("this system has no POSIX AIO")

    def interrupted(self: posix_aio.AsyncReads) -> None:
        raise KeyboardInterrupt

    path, content = stored
    with Files(MemorySource({}), past_cache=False) as opened, path.open("rb") as file:
        opened._descriptors["f"] = file.fileno()
        reads: aio_reads.AioReads[Range] = aio_reads.AioReads(opened)
        filled = Filled(Range("f", 0, len(content)), Buffer(torch.device("cpu"), len(content)))
        memory, controls = weakref.ref(filled.buffer.memory), weakref.ref(reads._reads)
        reads.begin(filled)
        with monkeypatch.context() as patch:
            patch.setattr(posix_aio.AsyncReads, "wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                reads.finish()
        del filled, reads
        gc.collect()
        assert memory() is not None
        assert controls() is not None

        for each in list(aio_reads._unfinished):
            each.finish()
        del each
        gc.collect()
        assert memory() is None
        assert controls() is None


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
