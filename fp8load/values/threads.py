"""One piece of work for each tensor, by several threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint

Item = TypeVar("Item")
Done = TypeVar("Done")

BATCH = 256
"""Tensors that a thread takes at once, at most: handing over each alone can cost more than reading it."""

MAX_THREADS = 8


def all_in_threads(checkpoint: Checkpoint, work: Callable[[Item], Done], items: Sequence[Item]) -> Iterator[Done]:
    """What `work` makes of each item, in their order; reading and numpy let go of the interpreter."""
    num_threads = max(checkpoint.source.parallel_reads, min(MAX_THREADS, os.cpu_count() or 1))
    num_together = max(1, min(BATCH, len(items) // (4 * num_threads)))
    batches = [items[at : at + num_together] for at in range(0, len(items), num_together)]
    with ThreadPoolExecutor(num_threads) as pool:
        yield from chain.from_iterable(pool.map(lambda batch: [work(item) for item in batch], batches))
