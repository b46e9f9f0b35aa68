"""What is known of a file as it was published: its size, and a digest. Nothing is asked of a network here.

Sources: the Hub's listing (size, and the LFS object id, which is the file's SHA-256); huggingface_hub's cache, which
calls each blob by its etag and links to it; its metadata beside files that were downloaded into a folder
(`.cache/huggingface/download/<file>.metadata`: commit, etag, time). An etag of 64 digits is a SHA-256, one of 40 is
git's: SHA-1 over "blob", the size, and the content.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fp8load.errors import SourceError
from fp8load.source.hub import HubSource

if TYPE_CHECKING:
    from fp8load.source.base import Source

METADATA = ".cache/huggingface/download"
"""Where huggingface_hub keeps what it knows of files that it put into a folder."""

CHUNK = 8 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
_METADATA_CAP = 4096


class Published(NamedTuple):
    """A file as published: size and digest (SHA-256, or git's SHA-1), each where known, and who says so."""

    nbytes: int | None
    digest: str | None
    said_by: str


def published(source: Source, file: str) -> Published | None:
    """What is known of `file`; None where nothing is."""
    listed = source.published(file) if isinstance(source, HubSource) else None
    nbytes, digest = listed or (None, None)
    if digest is not None:
        return Published(nbytes, digest, "the Hub's listing")
    blob = _blob_of(source.path(file))
    if blob is not None:
        return Published(nbytes, blob, "the name of its blob in the cache")
    noted = _noted(source, file)
    if noted is not None:
        return Published(nbytes, noted, f"{METADATA}/{file}.metadata")
    return None if nbytes is None else Published(nbytes, None, "the Hub's listing")


def _blob_of(path: Path | None) -> str | None:
    """The digest that a snapshot's link points to."""
    if path is None or not path.is_symlink():
        return None
    target = path.readlink()
    return target.name if target.parent.name == "blobs" and _DIGEST.fullmatch(target.name) else None


def _noted(source: Source, file: str) -> str | None:
    """The etag that was noted when the file was downloaded into this folder."""
    if source.info.kind in ("hub", "skeleton"):
        return None
    try:
        text = source.read(f"{METADATA}/{file}.metadata", 0, _METADATA_CAP)
    except SourceError:  # there is none, which is the usual case
        return None
    lines = text.decode("ascii", errors="replace").splitlines()
    return lines[1].strip() if len(lines) > 1 and _DIGEST.fullmatch(lines[1].strip()) else None


def digest_of(source: Source, file: str, like: str) -> str:
    """The digest of a whole file, of the kind that `like` is. Reads it; a `SourceError` passes through."""
    nbytes = source.size(file)
    begins = f"blob {nbytes}\0".encode()
    made = hashlib.sha256() if len(like) == 64 else hashlib.sha1(begins, usedforsecurity=False)
    for begin in range(0, nbytes, CHUNK):
        made.update(source.read(file, begin, min(begin + CHUNK, nbytes)))
    return made.hexdigest()
