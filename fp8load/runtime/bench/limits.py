"""What this machine can do at most: the link to the device, and threads that copy out of the page cache."""

from __future__ import annotations

import mmap
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fp8load.fusion import Progress
from fp8load.runtime.bench.host_memory import available_nbytes
from fp8load.runtime.bench.threads import CHUNK_NBYTES, Chunk, chunks_of, read_all, share_out
from fp8load.runtime.memory import HUGE_PAGE

LINK_NBYTES = {"cuda": 1 << 30, "cpu": 1 << 29}
"""Copied to measure the link: from pinned memory to the GPU, or within host memory."""

READ_NBYTES = 4 << 30
"""Of the files, read by each number of threads."""

NUM_THREADS = (1, 4, 8, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One of them. `is_link`: it bounds whatever threads read; of the others the fastest does."""

    what: str
    num_threads: int
    is_link: bool
    gb_s: float


def limit_of(limits: Sequence[Limit]) -> float | None:
    """The smaller of the link and the best that threads read, GB/s; None where one of them was not measured."""
    links, reads = ([one.gb_s for one in limits if one.is_link is link] for link in (True, False))
    return min(max(links), max(reads)) if links and reads else None


def thread_counts() -> list[int]:
    """`NUM_THREADS`, up to as many as cores, and as many as cores where these are fewer than 16."""
    cores = os.cpu_count() or 1
    return sorted({*(count for count in NUM_THREADS if count <= cores), min(cores, NUM_THREADS[-1])})


def measured_limits(device: torch.device, paths: Sequence[Path], num_runs: int, progress: Progress) -> list[Limit]:
    """The limits for a device and these files, each the best of `num_runs`; without files only the link.

    Takes 1 GiB of pinned memory, or fresh memory of the size of what is read, and returns it.
    """
    link = _pinned_copy if device.type == "cuda" else _host_copy
    found = [link(device, num_runs, progress)]
    if paths:
        into_memory = _read_pinned if device.type == "cuda" else _read_fresh
        found += [into_memory(paths, count, num_runs, progress) for count in thread_counts()]
    return found


def _pinned_copy(device: torch.device, num_runs: int, progress: Progress) -> Limit:
    nbytes = LINK_NBYTES["cuda"]
    source = torch.empty(nbytes, dtype=torch.uint8, device="cpu", pin_memory=True).fill_(1)
    target = torch.empty(nbytes, dtype=torch.uint8, device=device)
    seconds = []
    for done in range(num_runs + 1):  # the first warms up
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
        progress((done + 1) * nbytes, (num_runs + 1) * nbytes)
    return Limit(what="pinned host memory to the GPU", num_threads=1, is_link=True, gb_s=nbytes / min(seconds) / 1e9)


def _host_copy(device: torch.device, num_runs: int, progress: Progress) -> Limit:
    """memcpy into mapped memory, with as many threads as read at most."""
    del device
    nbytes, count = LINK_NBYTES["cpu"], thread_counts()[-1]
    source, target = np.ones(nbytes, np.uint8), np.ones(nbytes, np.uint8)

    def copy(_: int, begin: int) -> int:
        piece = source[begin : begin + CHUNK_NBYTES]
        np.copyto(target[begin : begin + CHUNK_NBYTES], piece)
        return piece.nbytes

    pieces = range(0, nbytes, CHUNK_NBYTES)
    seconds = min(share_out(pieces, count, copy, nbytes, progress) for _ in range(num_runs))
    return Limit(what="memcpy", num_threads=count, is_link=True, gb_s=nbytes / seconds / 1e9)


def _read_pinned(paths: Sequence[Path], count: int, num_runs: int, progress: Progress) -> Limit:
    """Each thread in turn into two buffers of its own, as a loader has to."""
    buffers = [
        [torch.empty(CHUNK_NBYTES, dtype=torch.uint8, device="cpu", pin_memory=True).numpy().data for _ in range(2)]
        for _ in range(count)
    ]
    turns = [0] * count

    def into(thread: int, _: object) -> memoryview:
        turns[thread] ^= 1
        return buffers[thread][turns[thread]]

    with chunks_of(paths, READ_NBYTES) as chunks:
        nbytes = sum(chunk.nbytes for chunk in chunks)
        seconds = min(read_all(chunks, count, into, progress) for _ in range(num_runs))
    what = "page cache to pinned memory"
    return Limit(what=what, num_threads=count, is_link=False, gb_s=nbytes / seconds / 1e9)


def _read_fresh(paths: Sequence[Path], count: int, num_runs: int, progress: Progress) -> Limit:
    """Into memory that nobody wrote before, advised for huge pages, as parameters are."""
    available = available_nbytes()
    limit = READ_NBYTES if available is None else min(READ_NBYTES, available // 2)
    with chunks_of(paths, limit) as chunks:
        nbytes = sum(chunk.nbytes for chunk in chunks)
        seconds = min(_read_once(chunks, count, nbytes, progress) for _ in range(num_runs))
    what = "page cache to fresh memory"
    return Limit(what=what, num_threads=count, is_link=False, gb_s=nbytes / seconds / 1e9)


def _read_once(chunks: Sequence[Chunk], count: int, nbytes: int, progress: Progress) -> float:
    """The mapping goes back to the system when this returns: the next one is as fresh."""
    if sys.platform.startswith("linux"):
        mapping = mmap.mmap(-1, -(-nbytes // HUGE_PAGE) * HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        mapping.madvise(mmap.MADV_HUGEPAGE)
    else:
        mapping = mmap.mmap(-1, nbytes)
    view = memoryview(mapping)
    return read_all(chunks, count, lambda _, chunk: view[chunk.at : chunk.at + chunk.nbytes], progress)
