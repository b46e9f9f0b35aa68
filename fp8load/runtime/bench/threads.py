"""Threads that read files in pieces, for limits and for warming the page cache; an interruption ends them soon."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from fp8load.fusion import Progress

T = TypeVar("T")

CHUNK_NBYTES = 16 << 20
"""Of one read; an interruption waits for one of each thread."""

POLL_SECONDS = 0.1


class Chunk(NamedTuple):
    """Bytes `begin:begin + nbytes` of a file, which lie `at` among all that is read."""

    descriptor: int
    begin: int
    nbytes: int
    at: int


Into = Callable[[int, Chunk], memoryview]
"""Where a thread (by number, from 0) puts a chunk: memory of at least its size."""


@contextmanager
def chunks_of(paths: Sequence[Path], limit: int) -> Iterator[list[Chunk]]:
    """The files in pieces, in order, up to `limit` bytes; they are open within the block."""
    with ExitStack() as stack:
        found: list[Chunk] = []
        at = 0
        for path in paths:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            size = min(os.fstat(descriptor).st_size, limit - at)
            for begin in range(0, size, CHUNK_NBYTES):
                nbytes = min(CHUNK_NBYTES, size - begin)
                found.append(Chunk(descriptor, begin, nbytes, at))
                at += nbytes
        yield found


def read_all(chunks: Sequence[Chunk], num_threads: int, into: Into, progress: Progress) -> float:
    """Read every chunk once, whichever thread is free; the seconds that it took."""

    def work(thread: int, chunk: Chunk) -> int:
        memory, done = into(thread, chunk), 0
        while done < chunk.nbytes:
            count = os.preadv(chunk.descriptor, [memory[done : chunk.nbytes]], chunk.begin + done)
            if count == 0:  # the file became shorter: what it has was read
                break
            done += count
        return chunk.nbytes

    return share_out(chunks, num_threads, work, sum(chunk.nbytes for chunk in chunks), progress)


def share_out(
    pieces: Sequence[T], num_threads: int, work: Callable[[int, T], int], total: int, progress: Progress
) -> float:
    """Call `work(thread, piece)` once for each piece, whichever thread is free; it says how many bytes of `total`
    that was. Returns the seconds. An error, or an interruption, stops all after their piece."""
    waiting, lock, stop = iter(pieces), threading.Lock(), threading.Event()
    done = [0] * num_threads

    def run(thread: int) -> None:
        while not stop.is_set():
            with lock:
                piece = next(waiting, None)
            if piece is None:
                return
            done[thread] += work(thread, piece)

    start = time.perf_counter()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="fp8load-bench") as pool:
        running = {pool.submit(run, thread) for thread in range(num_threads)}
        try:
            while running:
                finished, running = wait(running, timeout=POLL_SECONDS)
                for future in finished:
                    future.result()
                progress(sum(done), total)
        finally:
            stop.set()
    return time.perf_counter() - start
