"""The reading pipeline: segments in file order, neighbours in one read, a few threads, bounded memory.

No tensor and no shard is ever copied as a whole: bytes land in the parameter, or in one piece on the way to it. Threads
read (`preadv` lets others run meanwhile).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import closing

import torch

from fp8load.dtypes import BITS
from fp8load.fusion import FusionPlan, Progress
from fp8load.runtime.ahead import BUFFER_NBYTES, read_ahead
from fp8load.runtime.batches import batches
from fp8load.runtime.devices import current
from fp8load.runtime.files import Files
from fp8load.runtime.lanes import GAP_NBYTES, HostLane, to_device
from fp8load.runtime.readers import Readers
from fp8load.runtime.segments import CHUNK_NBYTES, Segment
from fp8load.source.base import Source

HOST_THREADS, DEVICE_THREADS = 4, 10
"""Threads of Python where files are local and there are as many cores: reading into host memory is bound by its
bandwidth with a few. Threads that read for a GPU are the C library's where it has them (`ahead`).
"""


def in_place(device: torch.device) -> bool:
    """Whether threads read straight into parameters: into the memory of the CPU."""
    return device.type == "cpu"


def num_threads(source: Source, device: torch.device | None = None) -> int:
    """Reader threads: up to as many as cores where files are local, as many as the source likes otherwise."""
    if source.remote:
        return source.parallel_reads
    return min(HOST_THREADS if device is None or in_place(device) else DEVICE_THREADS, os.cpu_count() or 1)


def execute(plan: FusionPlan, found: Iterable[Segment], device: torch.device, progress: Progress | None) -> None:
    """Read segments, in the order of files and places, to where they belong on `device`; at the end, all bytes are.

    `progress` gets the bytes that are kept so far, and those of the whole plan. Memory in flight is bounded, see
    `ahead` and `lanes`. An error of any thread stops the others and is raised when they have ended.
    """
    threads, total = num_threads(plan.source, device), 0 if progress is None else nbytes_kept(plan)
    straight = in_place(device)
    with current(device), Files(plan, past_cache=not straight) as files:
        if straight:
            read = Readers(batches(found, CHUNK_NBYTES), HostLane(files)).run(threads)
        else:
            ahead = read_ahead(files, batches(found, BUFFER_NBYTES, GAP_NBYTES), device, threads)
            read = to_device(ahead, device)
        done = 0
        with closing(read):
            for batch in read:
                done += batch.nbytes_kept
                if progress is not None:
                    progress(done, total)


def nbytes_kept(plan: FusionPlan) -> int:
    """Bytes of files that end in parameters; one that fills several slots counts for each."""
    return sum(copy.src.num_elements * BITS[plan.tensors[copy.source].dtype] // 8 for copy in plan.copies)
