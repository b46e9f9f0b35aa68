"""F8L009: a file is not the one that was published."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from fp8load.errors import NotFoundError, Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.source.published import METADATA, Published, digest_of, published
from fp8load.values.threads import all_in_threads

FILE = "model.safetensors"
_SMALL = b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}         '
DATA = len(_SMALL).to_bytes(8, "little") + _SMALL + b"\x80?\x80?"
NOTE = f"{METADATA}/{FILE}.metadata"


def check(context: Context) -> Iterator[Problem]:
    """Sizes, where the published one is known. With `--hash` also the digests of all files, and what has none."""
    source = context.checkpoint.source
    if source.info.kind == "skeleton":
        return
    same: list[tuple[str, Published | None]] = []
    weights = {*context.checkpoint.index.files, *context.checkpoint.index.strays}
    for file in sorted({*weights, *(name for name in source.list() if name.endswith(".json"))}):
        known = published(source, file)
        if known is None and file not in weights:
            continue  # configurations that were written here are nobody's publication
        try:
            nbytes = source.size(file)
        except NotFoundError:  # said by another rule: a link that points nowhere
            continue
        if known is not None and known.nbytes is not None and known.nbytes != nbytes:
            yield _other_size(file, known, nbytes)
        else:
            same.append((file, known))
    if context.hash:
        yield from _hashed(context, same)


def _other_size(file: str, known: Published, nbytes: int) -> Problem:
    return Problem(
        code="F8L009", message="a file is not as large as the published one", file=file,
        expected=f"{known.nbytes:,} bytes, as {known.said_by} says", got=f"{nbytes:,} bytes", hint=_HINT,
    )  # fmt: skip


def _hashed(context: Context, files: list[tuple[str, Published | None]]) -> Iterator[Problem]:
    checkpoint = context.checkpoint
    asked = []
    for file, known in files:
        is_here = not checkpoint.source.remote or checkpoint.source.path(file) is not None
        if known is not None and known.digest is not None and is_here:
            asked.append((file, known.digest, known.said_by))
        else:
            why = "no published checksum is known" if is_here else "the file is not on this machine"
            yield Problem(
                code="F8L009", message=f"a file was not checked: {why}", file=file, expected="a checksum to compare",
                got="none" if is_here else "a file on the Hub", severity=Severity.INFO, refuses=False,
                hint="`hf download` notes checksums beside the files, and in its cache",
            )  # fmt: skip
    digests = all_in_threads(checkpoint, lambda item: digest_of(checkpoint.source, item[0], item[1]), asked)
    for (file, digest, said_by), got in zip(asked, digests, strict=True):
        if got != digest:
            yield Problem(
                code="F8L009", message="a file has another content than the published one", file=file,
                expected=f"{digest}, as {said_by} says", got=got, hint=_HINT, refuses=False,
            )  # fmt: skip


_HINT = "the transfer damaged it, or something wrote into the cache: fetch the file again"


def _note(digest: str) -> dict[str, bytes | int | None]:
    return {FILE: DATA, NOTE: f"0123abc\n{digest}\n0.0\n".encode()}


RULE = Rule(
    code="F8L009",
    name="checksum-mismatch",
    level="headers",
    severity=Severity.ERROR,
    what="Files are as large as the Hub says. With `--hash`, their SHA-256 is the LFS object id, or the name of the "
    "blob in the cache, or the etag that was noted when they were downloaded; files without any are noted.",
    why="A damaged shard has the right size and shapes, and answers nonsense now and then.",
    fix="Remove the file and fetch it again.",
    check=check,
    examples=(
        Example(title="another content", skeleton="a BF16 [2]\n", files=_note("0" * 64), count=1),
        Example(title="the published content", skeleton="a BF16 [2]\n", count=0,
                files=_note(hashlib.sha256(DATA).hexdigest())),
        Example(title="git's own checksum", skeleton="a BF16 [2]\n", count=0,
                files=_note(hashlib.sha1(f"blob {len(DATA)}\0".encode() + DATA, usedforsecurity=False).hexdigest())),
        Example(title="nothing is known", skeleton="a BF16 [2]\n", files={FILE: DATA}, count=1),
    ),
)  # fmt: skip
