"""The files of a source while they are read: opened and checked once, read by range from several threads."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from errno import EINVAL
from pathlib import Path
from typing import NamedTuple

from fp8load.errors import ChangedError, HeaderError, NotFoundError, Problem, SourceError
from fp8load.fusion import FusionPlan
from fp8load.index.header import header_digest, header_length, parse_header
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

    @property
    def all_local(self) -> bool:
        """Whether every file that the plan reads is on this machine."""
        return all(self._plan.source.path(file) is not None for file in self._plan.copied_of_files)

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
        return descriptor

    def _opened_direct(self, file: str) -> int | None:
        """A descriptor that reads a local file past the page cache; None where there is none."""
        with self._opening:
            if file not in self._direct:
                path = self._plan.source.path(file)
                self._direct[file] = None if path is None else self._open_direct(path)
            return self._direct[file]

    def _open_direct(self, path: Path) -> int | None:
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

        What is in the page cache is copied from there, for the rest see `way`. `pages` goes on to the end of the page
        that the last byte lies in.
        """
        first = begin % PAGE
        memory = pages[first : first + end - begin]
        if self._opened(file) is None:
            self.read(Batch(file, begin, end, ()), [memory])
            return
        way, start = self.way(file, begin, end), time.perf_counter()
        wanted = Batch(file, begin, end, ())
        if not way.direct:
            _read_fully(way.descriptor, wanted, [memory], begin)
        elif not self._read_past(way.descriptor, wanted, pages):
            self.read(wanted, [memory])
        if way.timed:
            self.took(way, end - begin, time.perf_counter() - start)

    def _read_past(self, descriptor: int, wanted: Batch, pages: memoryview) -> bool:
        """Read whole pages past the page cache; False where the file system wants more of such reads than pages."""
        begin = wanted.begin // PAGE * PAGE
        try:
            _read_fully(descriptor, wanted, [pages[: -(-wanted.end // PAGE) * PAGE - begin]], begin)
        except SourceError as error:
            if not self.refused(wanted.file, error.__cause__):
                raise
            return False
        return True

    def refused(self, file: str, error: BaseException | None) -> bool:
        """Whether an error only means that a file cannot be read past the page cache as we do, as from now on it is
        not."""
        if not isinstance(error, OSError) or error.errno != EINVAL:
            return False
        self._direct[file] = None
        return True

    def way(self, file: str, begin: int, end: int) -> Way:
        """How to read a range of a local file. What is not in the page cache is read through it and past it (O_DIRECT)
        in turn, and what turns out faster is kept: that differs from machine to machine."""
        descriptor = self.descriptor(file)
        is_refused = not self._past_cache or self._direct.get(file, descriptor) is None
        if is_refused or end - begin < ColdReads.LEAST_NBYTES or _is_cached(descriptor, begin):
            return Way(descriptor, direct=False, timed=False)
        if not self._cold.direct():
            return Way(descriptor, direct=False, timed=True)
        past = self._opened_direct(file)
        return Way(descriptor if past is None else past, direct=past is not None, timed=past is not None)

    def took(self, way: Way, nbytes: int, seconds: float) -> None:
        """Note how long a read took that was to be timed."""
        self._cold.took(direct=way.direct, nbytes=nbytes, seconds=seconds)

    def descriptor(self, file: str) -> int:
        """Of a local file, opened and checked."""
        descriptor = self._opened(file)
        if descriptor is None:
            raise ValueError(f"{file} is not on this machine")
        return descriptor

    def failed(self, file: str, begin: int, end: int, error: OSError) -> SourceError:
        """The disk did not give a range."""
        return _failed(file, begin, end, error)

    def ended(self, file: str, at: int, end: int) -> ChangedError:
        """A file has no byte `at`, and was to have more."""
        return _ended(file, at, end)


class Way(NamedTuple):
    """By which descriptor to read; `direct`: past the page cache, whole pages. `timed`: tell `Files.took`."""

    descriptor: int
    direct: bool
    timed: bool


def _is_cached(descriptor: int, at: int) -> bool:
    """Whether a byte is in the page cache; taken for granted where the file system does not tell."""
    try:
        os.preadv(descriptor, [bytearray(1)], at, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _changed(file: str, expected: str, got: str, tensor: str = "") -> ChangedError:
    return ChangedError(Problem(code="FILL710", message="the file changed after it was planned", file=file,
                                tensor=tensor, expected=expected, got=got,
                                hint="open the checkpoint again"))  # fmt: skip


def _refuse_another_header(descriptor: int, meta: FileMeta, planned: Collection[TensorMeta]) -> None:
    """Read the header once more: a file that was exported again may have the same size and its tensors elsewhere."""
    memory = bytearray(meta.header_nbytes)
    _read_fully(descriptor, Batch(meta.name, 0, len(memory), ()), [memoryview(memory)], 0)
    begin = bytes(memory)
    if header_digest(begin) == meta.header_digest:
        return
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


def _failed(file: str, begin: int, end: int, error: OSError) -> SourceError:
    return SourceError(Problem(code="SRC006", message="the disk failed while a file was read", file=file,
                               expected=f"bytes {begin:,} to {end:,}", got=error.strerror or str(error)))  # fmt: skip


def _ended(file: str, at: int, end: int) -> ChangedError:
    return _changed(file, f"{end:,} bytes", f"it ends at {at:,}")


def _read_fully(descriptor: int, batch: Batch, buffers: Sequence[memoryview], at: int) -> None:
    """`preadv` from `at` until the batch has been read: the system may return less than was asked for."""
    pending = list(buffers)
    while at < batch.end:
        try:
            count = os.preadv(descriptor, pending, at)
        except OSError as error:
            raise _failed(batch.file, batch.begin, batch.end, error) from error
        if count == 0:
            raise _ended(batch.file, at, batch.end)
        at += count
        while pending and count >= len(pending[0]):
            count -= len(pending.pop(0))
        if pending and count:
            pending[0] = pending[0][count:]
