"""The reading pipeline: segments in file order, neighbours in one read, a few threads, bounded memory.

No tensor and no shard is ever copied as a whole: bytes land in the parameter, or in one piece on the way to it. Threads
read (`preadv` lets others run meanwhile), and each has a lane of its own to where parameters lie.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice

import torch

from fp8load.fusion import FusionPlan, Progress
from fp8load.index.index import TensorMeta
from fp8load.runtime.batches import Batch, batches
from fp8load.runtime.files import Files
from fp8load.runtime.lanes import BATCH_NBYTES, GAP_NBYTES, DeviceLane, HostLane, Lane
from fp8load.runtime.segments import CHUNK_NBYTES, Segment
from fp8load.source.base import Source

HOST_THREADS, DEVICE_THREADS = 4, 8
"""Reader threads where files are local and there are as many cores. Host memory is written by the threads themselves;
for an H200, 4 threads reach 0.69 of what 8 do, and 12 no more."""


def in_place(device: torch.device) -> bool:
    """Whether threads read straight into parameters: into the memory of the CPU."""
    return device.type == "cpu"


def num_threads(source: Source, device: torch.device | None = None) -> int:
    """Reader threads: up to as many as cores where files are local, as many as the source likes otherwise."""
    if source.remote:
        return source.parallel_reads
    return min(HOST_THREADS if device is None or in_place(device) else DEVICE_THREADS, os.cpu_count() or 1)


def execute(plan: FusionPlan, found: Sequence[Segment], progress: Progress | None) -> int:
    """Read every segment into its place; when this returns, all bytes are there, and it says how many.

    Memory in flight is bounded: two chunks for each thread, see `lanes`. An error of any thread stops the others and is
    raised when they have ended.
    """
    if not found:
        return 0
    device = found[0].target.device
    threads = num_threads(plan.source, device)
    total = sum(segment.end - segment.begin for segment in found)
    straight = in_place(device)
    work = batches(found, CHUNK_NBYTES) if straight else batches(found, BATCH_NBYTES, GAP_NBYTES)
    with Files(plan.source, past_cache=not straight) as files:
        needed = {segment.file: plan.index.files[segment.file] for segment in found}
        for file, planned in _by_file(plan, needed).items():
            files.open(needed[file], planned)
        lanes = _Lanes(device)
        try:
            with ThreadPoolExecutor(threads, thread_name_prefix="fp8load-read") as pool:
                done = 0
                for nbytes in _bounded(pool, lanes, files, work, 2 * threads):
                    done += nbytes
                    if progress is not None:
                        progress(done, total)
        finally:  # also after an error: a device must not write into memory that was given back
            lanes.finish()
    return total


class _Lanes:
    """A lane for each thread, made when it first reads."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._own = threading.local()
        self._all: list[Lane] = []

    def run(self, files: Files, batch: Batch) -> int:
        """Read one batch in this thread's lane; the bytes that its segments asked for."""
        lane: Lane | None = self._own.__dict__.get("lane")
        if lane is None:
            lane = HostLane() if in_place(self._device) else DeviceLane(self._device)
            self._own.lane = lane
            self._all.append(lane)
        lane.run(files, batch)
        return sum(segment.end - segment.begin for segment in batch.segments)

    def finish(self) -> None:
        """Wait for all."""
        for lane in self._all:
            lane.finish()


def _by_file(plan: FusionPlan, needed: Collection[str]) -> dict[str, list[TensorMeta]]:
    """The tensors that are copied out of each file that is read."""
    tensors: dict[str, list[TensorMeta]] = {file: [] for file in needed}
    stored = plan.index.tensors
    sources = dict.fromkeys(copy.source for copy in plan.copies)
    # A piece of a tensor that holds all experts is not in the file's header: the tensor is.
    for name in dict.fromkeys(name if name in stored else name.rpartition("[")[0] for name in sources):
        meta = stored[name]
        if meta.file in tensors:  # a file of which only empty tensors are wanted is not read
            tensors[meta.file].append(meta)
    return tensors


def _bounded(pool: ThreadPoolExecutor, lanes: _Lanes, files: Files, work: Iterable[Batch], limit: int) -> Iterator[int]:
    """Bytes of each finished batch, with at most `limit` of them submitted at a time; an error stops the rest."""
    waiting = iter(work)
    running: set[Future[int]] = set()
    try:
        while True:
            running |= {pool.submit(lanes.run, files, batch) for batch in islice(waiting, limit - len(running))}
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    finally:
        for future in running:
            future.cancel()
