"""The files of a source while they are read: opened and checked once, read by range from several threads."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

from fp8load.errors import ChangedError, HeaderError, NotFoundError, Problem, SourceError
from fp8load.fusion import FusionPlan
from fp8load.index.header import header_length, parse_header
from fp8load.index.index import FileMeta, TensorMeta
from fp8load.runtime.batches import Batch
from fp8load.runtime.cold import ColdReads
from fp8load.runtime.segments import PAGE


class Files:
    """The files of a plan, opened when they are first read; what has no local file is read through the source.

    A context: descriptors are closed at its end. `past_cache`: `read_pages` may read past the page cache. Safe to use
    from several threads.
    """

    def __init__(self, plan: FusionPlan, *, past_cache: bool = False) -> None:
        self._plan, self._stack, self._past_cache = plan, ExitStack(), past_cache
        self._opening = threading.Lock()
        self._descriptors: dict[str, int | None] = {}
        self._direct: dict[str, int | None] = {}
        self._cold = ColdReads()

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _opened(self, file: str) -> int | None:
        """The file's descriptor, None where it has no local file."""
        if file in self._descriptors:  # without the lock: every part of every batch asks
            return self._descriptors[file]
        with self._opening:
            if file not in self._descriptors:
                self._descriptors[file] = self._open(self._plan.index.files[file])
            return self._descriptors[file]

    def _open(self, meta: FileMeta) -> int | None:
        """Open a file and refuse one whose size, or the place of a planned tensor, is not what the plan saw."""
        file = meta.name
        path = self._plan.source.path(file)
        if path is None:
            return None
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            problem = Problem(code="SRC002", message=f"the file cannot be opened: {error.strerror}", file=file)
            raise NotFoundError(problem) from error
        self._stack.callback(os.close, descriptor)
        size = os.fstat(descriptor).st_size
        if size != meta.nbytes:
            raise _changed(file, f"{meta.nbytes:,} bytes, as when the plan was made", f"{size:,} bytes")
        _refuse_another_header(descriptor, meta, self._plan.copied_of_files[file])
        if self._past_cache:
            self._direct[file] = self._open_direct(path)
        return descriptor

    def _open_direct(self, path: Path) -> int | None:
        """A descriptor that reads past the page cache; None where the file system has none."""
        if sys.platform != "linux":
            return None
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError:
            return None
        self._stack.callback(os.close, descriptor)
        return descriptor

    def read(self, batch: Batch, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers, in order, from the batch's range. Raises `ChangedError` where the file ends too early."""
        descriptor = self._opened(batch.file)
        if descriptor is not None:
            _read_fully(descriptor, batch, buffers, batch.begin)
            return
        data = memoryview(self._plan.source.read(batch.file, batch.begin, batch.end))
        if len(data) != batch.nbytes:
            raise _changed(batch.file, f"{batch.nbytes:,} bytes at {batch.begin:,}", f"{len(data):,} bytes")
        at = 0
        for buffer in buffers:
            buffer[:] = data[at : at + len(buffer)]
            at += len(buffer)

    def read_pages(self, file: str, begin: int, end: int, pages: memoryview) -> None:
        """Bytes `begin:end` of a file into memory that begins at a page, as the page of `begin` does in the file.

        What is in the page cache is copied from there; for the rest, reads through it and past it (O_DIRECT) are tried
        in turn, and what turns out faster is kept: that differs from machine to machine. `pages` goes on to the end of
        the page that the last byte lies in.
        """
        first = begin % PAGE
        memory, nbytes = pages[first : first + end - begin], end - begin
        descriptor, past = self._opened(file), self._direct.get(file)
        cached: int | None = None
        if descriptor is not None and past is not None and nbytes >= ColdReads.LEAST_NBYTES:
            cached = _read_cached(descriptor, memory, begin)
        if descriptor is None or past is None or cached != 0:
            so_far = cached or 0
            if so_far < nbytes:
                self.read(Batch(file, begin + so_far, end, ()), [memory[so_far:]])
            return
        start = time.perf_counter()
        if direct := self._cold.direct():
            at = begin - first
            _read_fully(past, Batch(file, begin, end, ()), [pages[: -(-end // PAGE) * PAGE - at]], at)
        else:
            _read_fully(descriptor, Batch(file, begin, end, ()), [memory], begin)
        self._cold.took(direct=direct, nbytes=nbytes, seconds=time.perf_counter() - start)


def _read_cached(descriptor: int, buffer: memoryview, at: int) -> int | None:
    """Bytes that were read because they are in the page cache, up to the first that is not; None where the system does
    not tell."""
    try:
        return os.preadv(descriptor, [buffer], at, os.RWF_NOWAIT)
    except BlockingIOError:
        return 0
    except OSError:
        return None


def _changed(file: str, expected: str, got: str, tensor: str = "") -> ChangedError:
    return ChangedError(Problem(code="FILL710", message="the file changed after it was planned", file=file,
                                tensor=tensor, expected=expected, got=got,
                                hint="open the checkpoint again"))  # fmt: skip


def _refuse_another_header(descriptor: int, meta: FileMeta, planned: Collection[TensorMeta]) -> None:
    """Read the header once more: a file that was exported again may have the same size and its tensors elsewhere."""
    begin = os.pread(descriptor, meta.header_nbytes, 0)
    try:
        if 8 + header_length(meta.name, begin, meta.nbytes) != meta.header_nbytes:
            raise _changed(meta.name, f"a header of {meta.header_nbytes:,} bytes", "another length")
        header = parse_header(meta.name, begin[8:], meta.nbytes)
    except HeaderError as error:
        raise _changed(meta.name, "the header that was planned", error.problem.message) from error
    stored = {tensor.name: tensor for tensor in header.tensors}
    for tensor in planned:
        now = stored.get(tensor.name)
        if now != tensor:
            got = "no such tensor" if now is None else f"{now} at {now.begin:,}"
            raise _changed(meta.name, f"{tensor} at {tensor.begin:,}", got, tensor.name)


def _read_fully(descriptor: int, batch: Batch, buffers: Sequence[memoryview], at: int) -> None:
    """`preadv` from `at` until the batch has been read: the system may return less than was asked for."""
    pending = list(buffers)
    while at < batch.end:
        try:
            count = os.preadv(descriptor, pending, at)
        except OSError as error:
            where = f"bytes {batch.begin:,} to {batch.end:,}"
            problem = Problem(code="SRC006", message="the disk failed while a file was read", file=batch.file,
                              expected=where, got=error.strerror or str(error))  # fmt: skip
            raise SourceError(problem) from error
        if count == 0:
            raise _changed(batch.file, f"{batch.end:,} bytes", f"it ends at {at:,}")
        at += count
        while pending and count >= len(pending[0]):
            count -= len(pending.pop(0))
        if pending and count:
            pending[0] = pending[0][count:]
