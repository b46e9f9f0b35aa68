"""A source that is a mapping of names to bytes: tests, and checkpoints that never touch a disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fp8load.errors import NotFoundError, Problem
from fp8load.source.base import ReadMeter, SourceInfo


class MemorySource:
    """Files held in memory."""

    parallel_reads = 1
    remote = False

    def __init__(self, files: Mapping[str, bytes], *, id: str = "memory") -> None:
        self.info = SourceInfo(kind="memory", id=id)
        self.meter = ReadMeter()
        self._files = dict(files)

    def list(self) -> Mapping[str, int | None]:
        """Every file with its size."""
        return {name: len(data) for name, data in self._files.items()}

    def _data(self, file: str) -> bytes:
        data = self._files.get(file)
        if data is None:
            raise NotFoundError(Problem(code="SRC001", message="no such file in memory", file=file))
        return data

    def size(self, file: str) -> int:
        """Size of one file."""
        return len(self._data(file))

    def read(self, file: str, begin: int, end: int) -> bytes:
        """Bytes `begin:end`."""
        data = self._data(file)[begin:end]
        self.meter.add(len(data))
        return data

    def path(self, file: str) -> Path | None:  # noqa: ARG002 - the protocol's signature
        """None: nothing lies on a disk."""
        return None

    def close(self) -> None:
        """Nothing to release."""
