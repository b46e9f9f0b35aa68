"""Loads what a rank keeps of a checkpoint again and again: this package, its peers, and the machine's limits beside."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from fp8load.fusion import FusionPlan, Progress
from fp8load.runtime.bench.host_memory import available_nbytes
from fp8load.runtime.bench.limits import Limit, limit_of, measured_limits
from fp8load.runtime.bench.peaks import Extra, Peaks, release
from fp8load.runtime.bench.peers.base import Peer
from fp8load.runtime.bench.places import Expected, Places
from fp8load.runtime.bench.threads import CHUNK_NBYTES, POLL_SECONDS, chunks_of, read_all
from fp8load.runtime.execute import num_threads

OURS = "fp8load"
IN_PLACE, PREPARED = "bytes in place", "sealed, prepared model"

LIMIT_RUNS = 3
"""The best of so many is a limit, however often loaders are measured."""

FEW_NBYTES = 64 << 20
"""Of less than this, starting threads and allocating memory is what takes the time."""

FEW = "{:.1f} MB are too few: this is the time to start threads and to get memory, and the rates mean nothing"
ELSEWHERE = (
    "{} of {} files are not on this machine: every run fetches them, and what is measured is where they come from; "
    "there is no limit beside that, and no peer"
)
QUANTIZED = "weights are quantized to {} on the way, which is part of the time until the bytes are in place"
LARGE = (
    "{:.1f} GB of files, {:.1f} GB of free memory: the disk is measured too, and the limit is that of the page cache"
)
"""What is said of a checkpoint of which the figures mean something else."""

GRACE_SECONDS = 0.5
"""How long an interruption waits for a peer."""

Say = Callable[[str, int, int], None]
"""Called with what is done now, how many bytes of it are, and of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One loader and how far it was timed; `seconds` and `extra` of each run, in order."""

    name: str
    what: str
    peer: bool
    nbytes: int
    seconds: tuple[float, ...]
    extra: tuple[Extra, ...]

    @property
    def median(self) -> float:
        """Seconds of the run in the middle."""
        return statistics.median(self.seconds)

    @property
    def gb_s(self) -> float:
        """10^9 bytes a second, in that run."""
        return self.nbytes / self.median / 1e9


class LoadBench:
    """What was measured, after `measure`.

    device      where parameters are
    plan        what is loaded; `nbytes_read` of it is what every rate counts
    limits      none that are of files where these are not on this machine
    rows        ours first: until the bytes are in place, and until the model is ready; then peers
    refused     peers that were not asked, and why; `failed`: that raised, or ended with other bytes
    straggler   a peer that an interruption could not end; only the end of the process does
    """

    def __init__(self, plan: FusionPlan, device: torch.device, *, num_runs: int, say: Say) -> None:
        self.plan, self.device, self.num_runs, self._say = plan, device, num_runs, say
        self.limits: list[Limit] = []
        self.rows: list[Measured] = []
        self.refused: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.remarks: list[str] = []
        self.straggler = False
        self._runs: dict[tuple[str, str, bool], list[tuple[float, Extra]]] = {}
        self._stop = threading.Event()
        self.nbytes = plan.nbytes_read

    @property
    def limit(self) -> float | None:
        """GB/s that nothing can exceed here; None where it is not known."""
        return limit_of(self.limits)

    def measure(self, peers: Sequence[Peer]) -> None:
        """Warm the page cache, measure the limits, then everyone in turn, `num_runs` times."""
        if self.nbytes < FEW_NBYTES:
            self.remarks.append(FEW.format(self.nbytes / 1e6))
        if self.plan.quantize is not None:
            self.remarks.append(QUANTIZED.format(self.plan.quantize))
        paths = self._paths()
        self._warm(paths)
        self.limits = measured_limits(self.device, paths, min(self.num_runs, LIMIT_RUNS), self._progress("limits"))
        release(self.device)
        asked = [peer for peer in peers if self._accepts(peer, paths)]
        expected = Expected.of_one(self.plan) if asked else None
        for run in range(self.num_runs):
            nth = f"run {run + 1} of {self.num_runs}"
            self._run_ours(nth)
            for peer in asked:
                if peer.name not in self.failed:
                    self._run_peer(peer, paths, expected if run == 0 else None, nth)
        self.rows = [
            Measured(name=name, what=what, peer=peer, nbytes=self.nbytes, seconds=tuple(one[0] for one in runs),
                     extra=tuple(one[1] for one in runs))
            for (name, what, peer), runs in self._runs.items() if name not in self.failed
        ]  # fmt: skip

    def _paths(self) -> list[Path]:
        """The files that the rank reads, if all of them are on this machine."""
        source, tensors = self.plan.source, self.plan.tensors
        files = sorted({tensors[copy.source].file for copy in self.plan.copies})
        found = [path for path in map(source.path, files) if path is not None]
        if len(found) == len(files):
            return found
        self.remarks.append(ELSEWHERE.format(len(files) - len(found), len(files)))
        return []

    def _warm(self, paths: Sequence[Path]) -> None:
        """Read everything once, so that no one pays for the disk."""
        total, available = sum(path.stat().st_size for path in paths), available_nbytes()
        if available is not None and total > available:
            self.remarks.append(LARGE.format(total / 1e9, available / 1e9))
            return
        count = num_threads(self.plan.source, self.device)
        buffers = [memoryview(bytearray(CHUNK_NBYTES)) for _ in range(count)]
        with chunks_of(paths, total) as chunks:
            read_all(chunks, count, lambda thread, _: buffers[thread], self._progress("page cache"))

    def _accepts(self, peer: Peer, paths: Sequence[Path]) -> bool:
        reason = peer.refuses(self.device) if paths else "loads files of this machine only"
        if self.plan.quantize is not None:
            reason = f"does not quantize to {self.plan.quantize} while loading"
        if reason:
            self.refused[peer.name] = reason
        return not reason

    def _run_ours(self, nth: str) -> None:
        peaks = Peaks(self.device)
        start = time.perf_counter()
        model = self.plan.load(device=str(self.device), progress=self._progress(f"{OURS}, {nth}"))
        self._synchronize()
        seconds, extra = time.perf_counter() - start, peaks.beyond(self.plan.nbytes)
        self._runs.setdefault((OURS, IN_PLACE, False), []).append((model.stats.seconds_read, extra))
        self._runs.setdefault((OURS, PREPARED, False), []).append((seconds, extra))

    def _run_peer(self, peer: Peer, paths: Sequence[Path], expected: Expected | None, nth: str) -> None:
        """One run, in a thread of its own, so that an interruption need not wait for the code of others."""
        peaks = Peaks(self.device)
        state = _State(self._progress(f"{peer.name}, {nth}"), self.nbytes, self._stop)
        places = Places(self.plan, self.device, state.put)
        if expected is not None:
            expected.spoil(places.params)

        def work() -> None:
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            self._synchronize()
            start = time.perf_counter()
            peer.load(paths, self.device, places)
            self._synchronize()
            state.seconds = time.perf_counter() - start

        self._interruptible(work, state)
        if state.error:
            self.failed[peer.name] = state.error
            return
        extra = peaks.beyond(self.plan.nbytes)
        if expected is not None and not expected.is_in(places.params):
            self.failed[peer.name] = f"{expected.param} has other bytes than the files"
            return
        self._runs.setdefault((peer.name, IN_PLACE, True), []).append((state.seconds, extra))

    def _interruptible(self, work: Callable[[], None], state: _State) -> None:
        def run() -> None:
            try:
                work()
            except _StoppedError:
                state.error = "interrupted"
            except Exception as error:  # noqa: BLE001 - whatever another's code raises is a fact about it
                state.error = f"{type(error).__name__}: {error}".splitlines()[0]

        thread = threading.Thread(target=run, name="fp8load-peer", daemon=True)
        try:
            thread.start()
            while thread.is_alive():
                thread.join(POLL_SECONDS)
        except BaseException:
            self._stop.set()
            thread.join(GRACE_SECONDS)
            self.straggler = thread.is_alive()
            raise

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _progress(self, what: str) -> Progress:
        return lambda done, total: self._say(what, done, total)


class _StoppedError(Exception):
    """Raised in a peer's thread after an interruption, at its next tensor."""


@dataclass(slots=True)
class _State:
    """How far one run of a peer is."""

    progress: Progress
    nbytes: int
    stop: threading.Event
    seconds: float = 0.0
    error: str = ""
    _done: int = field(default=0)

    def put(self, nbytes: int) -> None:
        """So many bytes more are in place."""
        if self.stop.is_set():
            raise _StoppedError
        self._done += nbytes
        self.progress(self._done, self.nbytes)
