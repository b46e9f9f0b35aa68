"""What `bench load` measures: loaders that end with the same bytes, beside limits, and what becomes of others."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import fp8load
from fp8load.runtime.bench import host_memory, limits, measure, peaks
from fp8load.runtime.bench.limits import Limit, limit_of, measured_limits, thread_counts
from fp8load.runtime.bench.measure import IN_PLACE, OURS, PREPARED, LoadBench
from fp8load.runtime.bench.peer_list import all_peers
from fp8load.runtime.bench.peers.base import Peer
from fp8load.runtime.bench.peers.load_file import LoadFile
from fp8load.runtime.bench.peers.safe_open import SafeOpen
from fp8load.runtime.bench.places import Expected, Places
from fp8load.runtime.bench.threads import chunks_of, read_all, share_out
from fp8load.source.memory import MemorySource

FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "checkpoints"
NAMES = sorted(
    path.name for path in FOLDER.iterdir() if path.is_dir() and path.name != "ctmf-gptoss-mxfp4a16"
)  # broken
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(limits.LINK_NBYTES, "cpu", 1 << 20)


def quiet(*_: object) -> None:
    """Progress that nobody looks at."""


def bench_of(name: str, tp_size: int = 1, num_runs: int = 1) -> LoadBench:
    plan = fp8load.open(FOLDER / name).plan(tp_rank=tp_size - 1, tp_size=tp_size)
    return LoadBench(plan, CPU, num_runs=num_runs, say=quiet)


@pytest.mark.parametrize("peer", [LoadFile(), SafeOpen()], ids=lambda peer: peer.name)
@pytest.mark.parametrize("name", NAMES)
def test_a_peer_fills_every_parameter_with_what_fp8load_reads(name: str, peer: Peer) -> None:
    """Formats that safetensors reads, which are all here: packed, swizzled, transposed and stacked ones too."""
    plan = fp8load.open(FOLDER / name, allow_unscaled=True).plan()
    places = Places(plan, CPU, quiet)
    files = [path for path in map(plan.source.path, plan.index.files) if path is not None]

    peer.load(files, CPU, places)

    for key in plan.params:
        assert Expected(plan, key).is_in(places.params), key


def test_a_rank_of_two_is_measured_with_both_times_of_ours_and_every_peer_that_is_there() -> None:
    bench = bench_of("ct-llama128-fp8-static", tp_size=2, num_runs=2)
    bench.measure(all_peers())

    ours, ready, *peers = bench.rows
    assert (ours.name, ours.what, ready.name, ready.what) == (OURS, IN_PLACE, OURS, PREPARED)
    assert ours.median < ready.median
    assert {LoadFile.name, SafeOpen.name} <= {row.name for row in peers}
    assert {row.name for row in peers} | bench.refused.keys() == {peer.name for peer in all_peers()}
    assert all(len(row.seconds) == len(row.extra) == 2 for row in bench.rows)
    assert all(row.nbytes == bench.plan.nbytes_read for row in bench.rows)
    assert bench.failed == {}
    assert bench.limit is not None
    assert "are too few" in bench.remarks[0]


class Wrong(LoadFile):
    """Puts the bytes of each tensor in backwards."""

    name = "peer wrong"

    def load(self, paths: Sequence[Path], device: torch.device, places: Places) -> None:
        super().load(paths, device, Backwards(places))  # type: ignore[arg-type]


class Backwards:
    def __init__(self, places: Places) -> None:
        self._places = places

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def put(self, name: str, tensor: torch.Tensor) -> None:
        data = tensor.contiguous().reshape(-1).view(torch.uint8).flip(0).clone()
        self._places.put(name, data.view(tensor.dtype).reshape(tensor.shape))


class Idle(LoadFile):
    """Does nothing, into memory that may hold what the loader before it has left."""

    name = "peer idle"

    def load(self, paths: Sequence[Path], device: torch.device, places: Places) -> None:
        pass


class Raises(LoadFile):
    """Fails as a library that was built for another torch does."""

    name = "peer raises"

    def load(self, paths: Sequence[Path], device: torch.device, places: Places) -> None:
        raise OSError("libfoo.so: undefined symbol\nat 0x1")


class Refuses(LoadFile):
    """Not installed."""

    name = "peer refuses"

    def refuses(self, device: torch.device) -> str:
        return "not installed"


def test_peers_that_are_wrong_raise_or_refuse_have_no_figures() -> None:
    bench = bench_of("ct-llama128-fp8-static", num_runs=2)
    bench.measure([Wrong(), Raises(), Refuses(), SafeOpen(), Idle()])

    assert [row.name for row in bench.rows] == [OURS, OURS, SafeOpen.name]
    assert "has other bytes than the files" in bench.failed[Wrong.name]
    assert "has other bytes than the files" in bench.failed[Idle.name]
    assert bench.failed[Raises.name] == "OSError: libfoo.so: undefined symbol"
    assert bench.refused == {Refuses.name: "not installed"}


def test_of_files_that_are_elsewhere_only_loading_is_measured() -> None:
    folder = FOLDER / "ct-llama128-fp8-static"
    source = MemorySource({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})
    bench = LoadBench(fp8load.open(source).plan(), CPU, num_runs=1, say=quiet)
    bench.measure(all_peers())

    assert [row.what for row in bench.rows] == [IN_PLACE, PREPARED]
    assert bench.limit is None
    assert [limit.what for limit in bench.limits] == ["memcpy"]
    assert set(bench.refused.values()) == {"loads files of this machine only"}
    assert "every run fetches them" in bench.remarks[1]


def test_files_larger_than_the_memory_are_said_to_be_read_from_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "available_nbytes", lambda: 1000)
    bench = bench_of("ct-llama128-fp8-static")
    bench.measure([])

    assert "the disk is measured too" in bench.remarks[1]


def test_an_interruption_ends_a_peer_at_its_next_tensor_and_leaves_one_that_never_hands_one_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measure, "GRACE_SECONDS", 0.2)
    release, interrupted = threading.Event(), list[float]()

    class Slow(LoadFile):
        def load(self, paths: Sequence[Path], device: torch.device, places: Places) -> None:
            release.wait(10)
            super().load(paths, device, places)

    class Interrupted(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            if timeout == measure.POLL_SECONDS:
                interrupted.append(time.perf_counter())
                raise KeyboardInterrupt
            super().join(timeout)

    bench = bench_of("ct-llama128-fp8-static")
    monkeypatch.setattr(measure.threading, "Thread", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.measure([Slow()])

    assert bench.straggler
    assert time.perf_counter() - interrupted[0] < 5
    release.set()
    for thread in threading.enumerate():
        if thread.name == "fp8load-peer":
            threading.Thread.join(thread, 5)
            assert not thread.is_alive()


def test_an_error_of_one_thread_ends_all_of_them() -> None:
    called: list[int] = []

    def work(_: int, piece: int) -> int:
        called.append(piece)
        if piece == 3:
            raise OSError("read")
        time.sleep(0.001)
        return 1

    with pytest.raises(OSError, match="read"):
        share_out(range(100_000), 4, work, 100_000, quiet)

    assert len(called) < 100_000


def test_threads_read_every_byte_once(tmp_path: Path) -> None:
    content = {name: torch.randint(0, 256, (size,), dtype=torch.uint8).numpy().tobytes() for name, size in
               (("a", 5000), ("b", 0), ("c", 70_001))}  # fmt: skip
    paths = []
    for name, data in content.items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(data)
    with pytest.MonkeyPatch.context() as patch, memoryview(bytearray(75_001)) as memory:
        patch.setattr("fp8load.runtime.bench.threads.CHUNK_NBYTES", 999)
        with chunks_of(paths, 1 << 30) as chunks:
            read_all(chunks, 3, lambda _, chunk: memory[chunk.at : chunk.at + chunk.nbytes], quiet)
        assert bytes(memory) == b"".join(content.values())
        with chunks_of(paths, 6000) as chunks:
            assert sum(chunk.nbytes for chunk in chunks) == 6000


def test_the_limit_is_the_smaller_of_the_link_and_the_fastest_threads() -> None:
    def limit(gb_s: float, *, is_link: bool = False) -> Limit:
        return Limit(what="", num_threads=1, is_link=is_link, gb_s=gb_s)

    assert limit_of([limit(55, is_link=True), limit(7), limit(42)]) == 42
    assert limit_of([limit(5, is_link=True), limit(7), limit(42)]) == 5
    assert limit_of([limit(5, is_link=True)]) is None
    assert limit_of([]) is None


@pytest.mark.parametrize(("cores", "counts"), [(1, [1]), (2, [1, 2]), (12, [1, 4, 8, 12]), (64, [1, 4, 8, 16])])
def test_threads_are_up_to_as_many_as_cores(cores: int, counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits.os, "cpu_count", lambda: cores)

    assert thread_counts() == counts


def test_the_limits_of_the_cpu_are_a_copy_and_reads_into_fresh_memory(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(1 << 20))
    found = measured_limits(CPU, [path], 1, quiet)

    assert [limit.is_link for limit in found] == [True] + [False] * (len(found) - 1)
    assert all(limit.gb_s > 0 for limit in found)
    assert [limit.num_threads for limit in found[1:]] == thread_counts()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux")
def test_memory_that_was_needed_for_a_while_is_seen_and_what_stays_is_not() -> None:
    if not host_memory.reset_peak():
        pytest.skip("the system does not allow it")
    seen = peaks.Peaks(CPU)
    stays = torch.ones(64 << 20, dtype=torch.uint8)
    torch.ones(100 << 20, dtype=torch.uint8)
    extra = seen.beyond(0)

    assert extra.host is not None
    assert 80 << 20 < extra.host < 130 << 20
    assert extra.device is None
    del stays


def test_where_the_system_does_not_tell_the_peak_it_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(host_memory, "_CLEAR", tmp_path / "no" / "such" / "file")

    assert not host_memory.reset_peak()
    assert peaks.Peaks(CPU).beyond(0).host is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_everything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(limits.LINK_NBYTES, "cuda", 1 << 24)
    plan = fp8load.open(FOLDER / "ct-llama128-fp8-static").plan()
    bench = LoadBench(plan, torch.device("cuda", 0), num_runs=2, say=quiet)
    bench.measure([LoadFile(), SafeOpen()])

    assert bench.failed == {}
    assert len(bench.rows) == 4
    assert bench.limit is not None
    assert all(one.device is not None for row in bench.rows for one in row.extra)
