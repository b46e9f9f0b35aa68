"""What a source of checkpoint files is: a listing, and reads of byte ranges. One file here per kind of source."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """Where a checkpoint comes from, for reports.

    `kind` is "local", "hub", "skeleton", "memory" or a filesystem's protocol; `id` is what the user would type again.
    `commit` is the resolved revision where the source has one.
    """

    kind: str
    id: str
    revision: str | None = None
    commit: str | None = None

    def __str__(self) -> str:
        text = self.id
        if self.revision is not None:
            text += f" @ {self.revision}"
        if self.commit is not None:
            text += f" ({self.commit[:7]})"
        return text


class ReadMeter:
    """Bytes and requests that a source has served so far; safe to add to from several threads."""

    def __init__(self) -> None:
        self.nbytes = 0
        self.num_requests = 0
        self._lock = threading.Lock()

    def add(self, nbytes: int, num_requests: int = 1) -> None:
        """Count one read (or `num_requests`) of `nbytes`."""
        with self._lock:
            self.nbytes += nbytes
            self.num_requests += num_requests


class Source(Protocol):
    """A flat folder of files that can be read by byte range, from several threads at once.

    Names are paths relative to the checkpoint's folder, with forward slashes. Every failure is a `SourceError` (or one
    of its children) that names the file.
    """

    info: SourceInfo
    meter: ReadMeter
    parallel_reads: int
    """How many reads at once are worth it: 1 for local files, 8 where each read waits for a network."""
    remote: bool
    """Whether small scattered reads are slow: `verify` then defaults to level headers."""

    def list(self) -> Mapping[str, int | None]:
        """File name -> size in bytes; None where the listing does not tell and `size` must ask."""
        ...

    def size(self, file: str) -> int:
        """Size of one file in bytes."""
        ...

    def read(self, file: str, begin: int, end: int) -> bytes:
        """Bytes `begin:end` of a file, fewer only where the file ends before `end`."""
        ...

    def path(self, file: str) -> Path | None:
        """The file on this machine, where there is one; readers then use `os.preadv` on it."""
        ...

    def close(self) -> None:
        """Release connections and file handles. Harmless when repeated."""
        ...
