"""A new folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fp8load.errors import Problem, UsageError
from fp8load.source.base import Source
from fp8load.units import size
from fp8load.writing.shard import CHUNK, synced


@contextmanager
def new_folder(out: Path, *, nbytes: int = 0) -> Iterator[Path]:
    """A folder `<out>.tmp` to write into; at the end it becomes `out`, after an error it is removed.

    `nbytes` have to be free on that disk. Raises `UsageError` USE013 where `out` is in use or cannot be made.
    """
    work = out.with_name(f"{out.name}.tmp")
    _check(out, work, nbytes)
    try:
        work.mkdir()
    except OSError as error:
        raise _refused("the folder cannot be made", work, error.strerror or str(error)) from error
    try:
        yield work
        sync_folder(work)
        work.rename(out)
        sync_folder(out.parent)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _check(out: Path, work: Path, nbytes: int) -> None:
    if out.is_dir() and any(out.iterdir()):
        raise _refused("the folder is not empty", out, "files", hint="nothing is overwritten: name a new folder")
    if out.exists() and not out.is_dir():
        raise _refused("this is a file", out, "a file", hint="name a new folder")
    if not out.parent.is_dir():
        raise _refused("the folder's parent is not there", out, f"no folder {out.parent}")
    if work.exists():
        raise _refused("what an interrupted run left is in the way", work, "a folder or file of that name",
                       hint="remove it, if nothing writes there now")  # fmt: skip
    free = shutil.disk_usage(out.parent).free
    if free < nbytes:
        raise _refused("the disk is too full", out, f"{size(free)} free", expected=f"{size(nbytes)} free")


def _refused(
    message: str, path: Path, got: str, *, expected: str = "a folder that is new or empty", hint: str = ""
) -> UsageError:
    return UsageError(Problem(code="USE013", message=message, file=str(path), expected=expected, got=got, hint=hint))


def place(source: Source, file: str, target: Path, *, link: bool) -> None:
    """An unchanged file in a new folder: a hard link where that is asked for and the disk can, else a copy.

    Raises `SourceError` for what is no file, such as a link to nothing.
    """
    total = source.size(file)
    path = source.path(file)
    if path is not None and link:
        try:
            os.link(path.resolve(), target)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(path, target)
        return
    with target.open("xb") as written:
        for begin in range(0, total, CHUNK):
            written.write(source.read(file, begin, min(begin + CHUNK, total)))
        synced(written)


def write_text(target: Path, text: str) -> None:
    """A small text file, on the disk when this returns."""
    with target.open("xb") as file:
        file.write(text.encode())
        synced(file)


def sync_folder(path: Path) -> None:
    """Wait until the disk has a folder's entries."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
