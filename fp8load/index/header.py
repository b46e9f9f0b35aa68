"""Reading one safetensors header, with every check that the format asks for.

The format (huggingface/safetensors, README "Format"): 8 bytes little-endian header length, that many bytes of UTF-8
JSON that begins with `{`, then the tensors' bytes. `data_offsets` count from the end of the header, must tile the
data section without hole or overlap, and agree with dtype and shape. Headers above 100 MB are refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from operator import itemgetter
from typing import Any

from fp8load.dtypes import BITS, ON_DISK, DType
from fp8load.errors import HeaderError, Problem, Severity
from fp8load.index.index import TensorMeta
from fp8load.index.strict_json import DuplicateKeyError, refuse_constant, refuse_duplicates

HEADER_CAP = 100_000_000
"""The format's own limit: a length field of a broken file must not make a reader allocate gigabytes."""

FIRST_READ = 64 * 1024
"""First guess of a header's size for remote reads; a DeepSeek-V3 shard's header has 72 KiB, a small model's 5."""

SNIFF = 512
"""First read of a local file: enough to see its kind. A second read costs nothing there, and no weight is touched."""

_MAX_BITS = 2**63
_DTYPES = {dtype.value: dtype for dtype in DType if dtype in ON_DISK}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A parsed header: tensors in the order of their bytes, and the free metadata. `digest`: see `header_digest`."""

    tensors: tuple[TensorMeta, ...]
    metadata: dict[str, str]
    nbytes: int
    digest: bytes
    problems: tuple[Problem, ...] = ()


_AGAIN = "fetch the file again; if it stays so, the tool that wrote it is at fault"


def _fault(
    code: str, message: str, file: str, *, expected: str, got: str, tensor: str = "", hint: str = _AGAIN
) -> HeaderError:
    return HeaderError(
        Problem(code=code, message=message, file=file, tensor=tensor, expected=expected, got=got, hint=hint)
    )


def _not_safetensors(file: str, begin: bytes, size: int) -> HeaderError | None:
    """What a file really is, when its first bytes are not those of a safetensors file."""
    head = begin.lstrip().lower()
    if size == 0:
        return _fault("F8L002", "the file is empty", file, expected="a safetensors file", got="0 bytes",
                      hint="fetch the file again")  # fmt: skip
    if begin.startswith(b"version https://git-lfs"):
        return _fault("F8L002", "the file is a git-LFS pointer, not weights", file,
                      expected="a safetensors file", got=f"a text file of {size} bytes that names an LFS object",
                      hint="run `git lfs pull` in the repository, or `hf download` the repo")  # fmt: skip
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return _fault("F8L002", "the file is a web page, not weights", file,
                      expected="a safetensors file", got=f"HTML: {begin[:40]!r}",
                      hint="a login or error page was saved under this name; `hf download` it again")  # fmt: skip
    if head.startswith((b'{"error', b'{"message')):
        return _fault("F8L002", "the file is a server's error message, not weights", file,
                      expected="a safetensors file", got=f"{begin[:60]!r}", hint="download it again")  # fmt: skip
    return None


def header_length(file: str, begin: bytes, size: int) -> int:
    """Length of the JSON part, from the first bytes of a file (at least 8, where the file has them)."""
    wrong_kind = _not_safetensors(file, begin, size)
    if wrong_kind is not None:
        raise wrong_kind
    if size < 8:
        raise _fault("F8L002", "the file is too short to be a safetensors file", file,
                     expected="at least 8 bytes", got=f"{size} bytes", hint="fetch the file again")  # fmt: skip
    length = int.from_bytes(begin[:8], "little")
    if length > HEADER_CAP:
        raise _fault("F8L002", "the header length field is beyond the format's limit", file,
                     expected=f"at most {HEADER_CAP:,} bytes", got=f"{length:,} (first bytes {begin[:8]!r})",
                     hint="this is not a safetensors file, or its first bytes are damaged")  # fmt: skip
    if 8 + length > size:
        raise _fault("F8L001", "the file ends inside its header: the download or copy stopped", file,
                     expected=f"a header of {length:,} bytes after the first 8", got=f"a file of {size:,} bytes",
                     hint="fetch the file again")  # fmt: skip
    return length


def _may_have_duplicates(raw: bytes, document: dict[str, Any]) -> bool:
    """Whether some key may stand twice, told by counting colons: every key has one, and valid entries have four keys.

    Colons inside strings only add to the count, so a clean count proves that each key stands once. The hook would
    know for certain, and makes json.loads take twice as long.
    """
    num_keys = 4 * len(document)
    if "__metadata__" in document:
        metadata = document["__metadata__"]
        if type(metadata) is not dict:
            return True
        num_keys += len(metadata) - 3
    return raw.count(b":") != num_keys


def _parse_json(file: str, raw: bytes) -> dict[str, Any]:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _fault("F8L002", "the header is not UTF-8", file, expected="UTF-8 JSON",
                     got=f"{error.reason} at byte {8 + error.start}") from error  # fmt: skip
    if not text.startswith("{"):
        raise _fault("F8L002", "the header does not begin with '{'", file,
                     expected="a JSON object", got=repr(text[:20]))  # fmt: skip
    try:
        document: dict[str, Any] = json.loads(text, parse_constant=refuse_constant)
        if _may_have_duplicates(raw, document):
            json.loads(text, object_pairs_hook=refuse_duplicates)
        if "\\u" in text:
            "".join(document).encode()  # half of a surrogate pair is no character, and no tensor can be called so
    except DuplicateKeyError as error:
        raise _fault("F8L011", "the header has the same name twice", file, tensor=error.key,
                     expected="each name once", got="two entries") from None  # fmt: skip
    except (ValueError, RecursionError) as error:
        raise _fault("F8L002", "the header is not valid JSON", file,
                     expected="a JSON object", got=str(error)) from error  # fmt: skip
    return document


def _entries(file: str, document: dict[str, Any], data_begin: int) -> list[TensorMeta]:
    """All tensors of the header, each checked by itself, sorted by their bytes.

    One loop without calls, because it runs 91,991 times for DeepSeek-V3; what does not pass goes to `_entry_fault`.
    """
    tensors: list[TensorMeta] = []
    is_sorted, last = True, data_begin
    for name, entry in document.items():
        try:
            shape, (begin, end), dtype = entry["shape"], entry["data_offsets"], _DTYPES[entry["dtype"]]
            num_bits = BITS[dtype]
            sound = len(entry) == 3 and type(shape) is list and type(begin) is int and type(end) is int
            for dim in shape:
                if type(dim) is not int or not 0 <= dim < _MAX_BITS > num_bits:
                    sound = False  # and no product with it: a string times a large number fills the memory
                    break
                num_bits *= dim
            sound = sound and 0 <= begin <= end and num_bits == (end - begin) * 8
        except (KeyError, TypeError, ValueError) as error:
            raise _entry_fault(file, name, entry) from error
        if not sound or num_bits >= _MAX_BITS:
            raise _entry_fault(file, name, entry)
        begin += data_begin
        is_sorted = is_sorted and begin >= last
        last = begin
        tensors.append(TensorMeta(name, dtype, tuple(shape), file, begin, end + data_begin))
    if not is_sorted or any(meta.begin == meta.end for meta in tensors):
        tensors.sort(key=itemgetter(4, 5))
    return tensors


def _entry_fault(file: str, name: str, entry: Any) -> HeaderError:
    """What is wrong with an entry: its keys, dtype, shape, offsets, or its bytes against its shape."""

    def fault(message: str, expected: str, got: str) -> HeaderError:
        return _fault("F8L011", message, file, tensor=name, expected=expected, got=got)

    if type(entry) is not dict or entry.keys() != {"dtype", "shape", "data_offsets"}:
        return fault("a tensor's entry is malformed", "dtype, shape and data_offsets", repr(entry)[:120])
    shape, offsets, tag = entry["shape"], entry["data_offsets"], entry["dtype"]
    if not isinstance(tag, str) or tag not in _DTYPES:
        return _fault("F8L008", "the dtype is unknown", file, tensor=name, got=str(tag)[:60],
                      expected="a dtype of safetensors 0.8: " + " ".join(_DTYPES),
                      hint="written by a newer tool? say which one in an issue")  # fmt: skip
    if type(shape) is not list or type(offsets) is not list or len(offsets) != 2:
        return fault("a tensor's entry is malformed", "shape: list, data_offsets: two integers", repr(entry)[:120])
    if any(type(dim) is not int or dim < 0 for dim in shape):
        return fault("a dimension is not a size", "integers >= 0", str(shape)[:120])
    begin, end = offsets
    if type(begin) is not int or type(end) is not int or not 0 <= begin <= end:
        return fault("the data offsets are not a range", "0 <= begin <= end", str(offsets)[:120])
    num_bits = prod(shape) * BITS[_DTYPES[tag]]
    if max(num_bits, prod(filter(None, shape))) >= _MAX_BITS:
        return fault("the shape overflows 64 bits", f"fewer than {_MAX_BITS:,} bits", str(shape)[:120])
    expected = f"{num_bits // 8}" + (f" and {num_bits % 8}/8" if num_bits % 8 else "")
    return fault("bytes and shape disagree", f"{expected} bytes for {tag} {shape}", f"{end - begin} bytes")


def _check_layout(file: str, tensors: list[TensorMeta], data_begin: int, size: int) -> tuple[Problem, ...]:
    """Hole, overlap and end of file. `tensors` are sorted by their bytes."""
    at = data_begin
    previous = ""
    for meta in tensors:
        if meta.begin != at:
            kind = "overlaps the one before it" if meta.begin < at else "leaves a hole before it"
            if meta.begin < at or meta.end <= size:
                raise HeaderError(Problem(
                    code="F8L011", message=f"a tensor {kind}", file=file, tensor=meta.name,
                    expected=f"first byte {at:,}" + (f", where {previous} ends" if previous else ""),
                    got=f"first byte {meta.begin:,}", hint=_AGAIN))  # fmt: skip
        at, previous = meta.end, meta.name
    if at > size:
        cut = next(meta for meta in tensors if meta.end > size)
        raise HeaderError(Problem(
            code="F8L001", message="the file ends before its tensors do: the download or copy stopped", file=file,
            tensor=cut.name, expected=f"{at:,} bytes", got=f"{size:,} bytes; {cut.name} is the first that is cut",
            hint="fetch the file again"))  # fmt: skip
    if at < size:
        return (Problem(
            code="F8L011", message="bytes follow the last tensor", file=file, tensor=previous,
            severity=Severity.WARNING, expected=f"the file to end at byte {at:,}", got=f"{size:,} bytes",
            hint="safetensors itself refuses such a file; save it again"),)  # fmt: skip
    return ()


def parse_header(file: str, raw: bytes, size: int) -> Header:
    """A header from its JSON bytes (without the 8 bytes before them), of a file of `size` bytes.

    Raises `HeaderError` that names file, tensor, expected and got.
    """
    document = _parse_json(file, raw)
    metadata = document.pop("__metadata__", None)
    problems: tuple[Problem, ...] = ()
    if metadata is None:
        metadata = {}
    elif type(metadata) is not dict or any(type(value) is not str for value in metadata.values()):
        problems = (Problem(code="F8L007", message="__metadata__ is not a map of strings", file=file, refuses=False,
                            expected="strings by name", got=repr(metadata)[:80],
                            hint="safetensors refuses the file: save it again, with strings"),)  # fmt: skip
        metadata = {str(key): str(value) for key, value in metadata.items()} if isinstance(metadata, dict) else {}
    data_begin = 8 + len(raw)
    tensors = _entries(file, document, data_begin)
    problems += _check_layout(file, tensors, data_begin, size)
    digest = header_digest(len(raw).to_bytes(8, "little") + raw)
    return Header(
        tensors=tuple(tensors), metadata=metadata, nbytes=data_begin, digest=digest, problems=problems
    )  # fmt: skip


def header_digest(header: bytes) -> bytes:
    """SHA-256 of a header, its length and its JSON: a hundred times faster than to parse it again."""
    return sha256(header).digest()


def read_header(file: str, size: int, read: Callable[[int, int], bytes], *, first_read: int = FIRST_READ) -> Header:
    """Read and parse one header: one read of `first_read` bytes, and a second only where the header is longer."""
    begin = read(0, min(first_read, size)) if size else b""
    length = header_length(file, begin, size)
    raw = begin[8 : 8 + length]
    if len(raw) < length:
        raw += read(8 + len(raw), 8 + length)
    if len(raw) < length:
        raise _fault("F8L001", "the file ended while its header was read", file,
                     expected=f"{length:,} bytes", got=f"{len(raw):,} bytes", hint="fetch the file again")  # fmt: skip
    return parse_header(file, raw, size)
