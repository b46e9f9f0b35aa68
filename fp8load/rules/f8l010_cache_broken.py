"""F8L010: the cache or the folder holds what a download left unfinished."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED
from fp8load.source.base import Source
from fp8load.source.published import METADATA

UNFINISHED = (".incomplete", ".aria2", ".part", ".crdownload")
"""What downloaders call a file that is not whole yet."""


def check(context: Context) -> Iterator[Problem]:
    """Links that point nowhere, which reading found; and files of unfinished downloads, which may be another's."""
    yield from context.problems("F8L010")
    source = context.checkpoint.source
    if source.info.kind == "skeleton":
        return
    left = [name for name in source.list() if name.endswith(UNFINISHED)]
    for name in [*left, *_around(source, list(context.checkpoint.index.files))]:
        yield Problem(
            code="F8L010", message="a download was not finished", file=name, expected="files that are whole",
            got="an unfinished one", severity=Severity.WARNING, refuses=False,
            hint="`hf download` goes on where it stopped; remove the file if another download has replaced it",
        )  # fmt: skip


def _around(source: Source, files: list[str]) -> Iterator[str]:
    """Unfinished files where huggingface_hub keeps them: among the blobs of its cache, or in a folder of its own."""
    path = source.path(files[0]) if files else None
    if path is None:
        return
    for folder in (_blobs(path), path.parent / METADATA):
        if folder is not None and folder.is_dir():
            yield from sorted(f"{folder.name}/{found.name}" for found in folder.iterdir()
                              if found.name.endswith(".incomplete"))  # fmt: skip


def _blobs(path: Path) -> Path | None:
    """The blobs of the repository that a snapshot's file belongs to."""
    snapshots = path.absolute().parent.parent
    return snapshots.parent / "blobs" if snapshots.name == "snapshots" else None


RULE = Rule(
    code="F8L010",
    name="cache-broken",
    level="headers",
    severity=Severity.ERROR,
    what="Links of the Hub's cache point to files, and no unfinished download lies beside the checkpoint.",
    why="A cache that was cleaned by hand, or a download that stopped, looks complete in a listing.",
    fix="Run `hf download` again; it repairs its cache.",
    check=check,
    examples=(
        Example(title="an unfinished shard", skeleton=BLOCK + QUANTIZED, count=1,
                files={"model-00002-of-00002.safetensors.incomplete": b""}),
        Example(title="whole", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)  # fmt: skip
