"""Values of scales: one pass in file order, a few numbers kept of each tensor, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from fp8load.errors import NetworkError, Problem, Severity
from fp8load.index.index import TensorMeta
from fp8load.inspection import scale_names
from fp8load.rules.scale_stats import ScaleStats, measured
from fp8load.scheme import Repack, Role, ScaleRounding
from fp8load.swizzle import TILE_ROWS, padded_shape, row_major

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint

Item = TypeVar("Item")
Done = TypeVar("Done")

CHUNK = 8 << 20
"""Bytes read at once: a file may call a tensor of any size a scale."""

BATCH = 256
"""Scales that a thread takes at once, at most: handing over each alone would cost more than reading it."""

MAX_THREADS = 8


class ScaleReader:
    """Reads every scale of a checkpoint once, and keeps a `ScaleStats` of each."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def metas(self) -> list[TensorMeta]:
        """Scales that hold floats, in the order of their bytes."""
        tensors = self._checkpoint.tensors
        metas = (tensors[name] for name in dict.fromkeys(scale_names(self._checkpoint)))
        wanted = (meta for meta in metas if meta.dtype.is_wide_float or meta.dtype.name.startswith("F8_"))
        return sorted(wanted, key=lambda meta: (meta.file, meta.begin))

    @property
    def nbytes(self) -> int:
        """Bytes that reading all of them takes."""
        return sum(meta.nbytes for meta in self.metas())

    @cached_property
    def _rounded(self) -> frozenset[str]:
        """Weight scales that the configuration says to be powers of two."""
        modules = self._checkpoint.lowered.modules.values()
        return frozenset(
            info.tensors[Role.WEIGHT_SCALE].name
            for info in modules
            if info.scheme is not None
            and info.scheme.rounding is ScaleRounding.POWER_OF_TWO
            and Role.WEIGHT_SCALE in info.tensors
        )

    @cached_property
    def stats(self) -> tuple[ScaleStats, ...]:
        """One entry for each scale, in the order of their bytes. The first use reads; a `SourceError` passes through.

        Several threads read, each one chunk at a time.
        """
        metas = self.metas()
        num_together = max(1, min(BATCH, len(metas) // (4 * MAX_THREADS)))
        batches = [metas[at : at + num_together] for at in range(0, len(metas), num_together)]
        return tuple(chain.from_iterable(in_threads(self._checkpoint, self._measure, batches)))

    @cached_property
    def by_name(self) -> Mapping[str, ScaleStats]:
        """The same by the tensors' names."""
        return {stats.meta.name: stats for stats in self.stats}

    def _measure(self, metas: Sequence[TensorMeta]) -> list[ScaleStats]:
        rounded = self._rounded
        return [
            measured(
                meta, chunks(self._checkpoint, meta), must_be_powers=meta.dtype.is_wide_float and meta.name in rounded
            )
            for meta in metas
        ]


def in_threads(checkpoint: Checkpoint, work: Callable[[Item], Done], items: Sequence[Item]) -> Iterator[Done]:
    """What `work` makes of each item, in their order; reading and numpy let go of the interpreter."""
    num_threads = max(checkpoint.source.parallel_reads, min(MAX_THREADS, os.cpu_count() or 1))
    if len(items) < 2:
        return map(work, items)
    with ThreadPoolExecutor(min(num_threads, len(items))) as pool:
        return iter(list(pool.map(work, items)))


def unsound(
    stats: ScaleStats, unused: Mapping[str, str], *, code: str, wanted: str, counts: Mapping[str, int], first: int,
    hint: str, refuses: bool,
) -> Problem:  # fmt: skip
    """A scale with elements that are not `wanted`: how many of each kind, and where the first is.

    Only noted, and never a reason to refuse, where no weight uses the scale: `unused` has the names, with why.
    """
    meta = stats.meta
    is_unused = meta.name in unused
    kinds = " and ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
    return Problem(
        code=code, message=f"a scale is not {wanted}" + (", and nothing uses it" if is_unused else ""),
        tensor=meta.name, file=meta.file, expected=f"{meta.num_elements:,} {wanted} numbers",
        got=f"{kinds}, the first at {stats.position(first)}", hint=unused.get(meta.name, hint),
        severity=Severity.INFO if is_unused else Severity.ERROR, refuses=refuses and not is_unused,
    )  # fmt: skip


def chunks(checkpoint: Checkpoint, meta: TensorMeta) -> Iterator[bytes]:
    """One tensor's bytes, about `CHUNK` at a time; of a swizzled scale in rows and without padding.

    Raises `NetworkError` where the file ends too early.
    """
    if checkpoint.lowered.repacks.get(meta.name) is not Repack.UNSWIZZLE:
        yield from _pieces(checkpoint, meta, CHUNK)
        return
    num_rows, num_cols = meta.shape
    padded_cols = padded_shape((num_rows, num_cols))[1]
    step = max(1, CHUNK // (TILE_ROWS * padded_cols)) * TILE_ROWS
    for at, data in enumerate(_pieces(checkpoint, meta, step * padded_cols)):
        yield row_major(data, padded_cols)[: num_rows - at * step, :num_cols].tobytes()


def _pieces(checkpoint: Checkpoint, meta: TensorMeta, nbytes: int) -> Iterator[bytes]:
    """The bytes as they lie in the file."""
    for begin in range(meta.begin, meta.end, nbytes):
        end = min(begin + nbytes, meta.end)
        data = checkpoint.source.read(meta.file, begin, end)
        if len(data) != end - begin:
            raise NetworkError(Problem(code="SRC006", message="the file is shorter than its header said",
                                       tensor=meta.name, file=meta.file, expected=f"{end - begin} bytes",
                                       got=f"{len(data)} bytes"))  # fmt: skip
        yield data
