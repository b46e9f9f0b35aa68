r"""Skeletons: the headers of a checkpoint as a few lines of text, for fixtures, bug reports and tests.

    # a comment
    config {"model_type": "llama", "num_hidden_layers": 2}
    file hf_quant_config.json {"quantization": {"quant_algo": "FP8"}}
    inside comfy_quant {"blocks.0.mlp": {"format": "nvfp4"}}
    model.layers.{0..1}.self_attn.{q,o}_proj.weight  F8_E4M3  [256, 256]  @ model-00001-of-00002.safetensors

One line a tensor pattern (`fp8load.patterns`), then dtype, shape and, after `@`, the file (model.safetensors where it
is left out). Several `config` lines add up. `inside` is what the tensors' own file says of their quantization, by a
kind of `fp8load.index.embedded`. White space inside a name is written `\u0020`; `""` is the empty name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fp8load.dtypes import ON_DISK, DType, nbytes_of
from fp8load.errors import HeaderError, Problem
from fp8load.index.embedded import KINDS
from fp8load.index.index import Index
from fp8load.index.layout import Entry, lay_out
from fp8load.index.quiet_gc import quiet_gc
from fp8load.index.strict_json import refuse_duplicates
from fp8load.patterns import expand, fold, natural_key
from fp8load.source.local import unsafe_name

DEFAULT_FILE = "model.safetensors"
HINT = "`fp8load inspect SOURCE --skeleton` writes one"
"""Where a skeleton comes from, for whoever got one wrong."""
_TENSOR = re.compile(r"(\S+)\s+(\S+)\s+\[([^\]]*)\]\s*(?:@\s*(\S+))?\s*(?:#.*)?")
_JSON = re.compile(r"(?:config|file\s+(\S+)|inside\s+(\S+))\s+(\{.*)")
_FORM = "pattern DTYPE [shape] [@ file], or config {json}, file NAME {json} or inside KIND {json}, or # comment"
_DTYPES = {dtype.value: dtype for dtype in DType if dtype in ON_DISK}


class _LineError(ValueError):
    """What is wrong with one line: message, expected, got."""

    def __init__(self, message: str, expected: str = "", got: str = "") -> None:
        super().__init__(message)
        self.message, self.expected, self.got = message, expected, got


@dataclass(slots=True)
class _Reading:
    """What the lines said so far."""

    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    embedded: dict[str, dict[str, Any]] = field(default_factory=dict)
    entries: dict[str, list[Entry]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def line(self, text: str) -> None:
        """Take in one line that is neither empty nor a comment."""
        document = _JSON.fullmatch(text)
        if document is not None:
            file, kind, content = document.groups()
            if kind is not None and kind not in KINDS:
                raise _LineError("files have no such thing inside", " or ".join(KINDS), kind)
            self._json(self.configs if kind is None else self.embedded, kind or file or "config.json", content)
            return
        tensor = _TENSOR.fullmatch(text)
        if tensor is None:
            raise _LineError("the line is not understood", _FORM, text[:80])
        self._tensors(*tensor.groups())

    @staticmethod
    def _json(into: dict[str, dict[str, Any]], file: str, text: str) -> None:
        try:
            document = json.loads(text, object_pairs_hook=refuse_duplicates)
        except (ValueError, RecursionError) as error:
            raise _LineError("the JSON is not valid", "a JSON object on one line", str(error)) from error
        config = into.setdefault(file, {})
        again = config.keys() & document.keys()
        if again:
            raise _LineError(f"{file} has the same key twice", "each key once", ", ".join(sorted(again)))
        config |= document

    def _tensors(self, pattern: str, dtype_name: str, shape_text: str, file_pattern: str | None) -> None:
        dtype = _DTYPES.get(dtype_name)
        if dtype is None:
            raise _LineError("the dtype is unknown", " ".join(_DTYPES), dtype_name)
        shape = _shape(shape_text)
        try:
            nbytes_of(dtype, shape)
            names = list(expand("" if pattern == '""' else pattern))
            files = list(expand(file_pattern or DEFAULT_FILE, limit=1))
        except ValueError as error:
            raise _LineError(str(error), got=f"{pattern} {dtype} {list(shape)}") from error
        reason = unsafe_name(files[0])
        if reason is not None:
            raise _LineError(f"the file is not usable: {reason}", "a path inside the checkpoint's folder", files[0])
        known = len(self.names)
        again = self.names.intersection(names)
        self.names.update(names)
        if again or len(self.names) != known + len(names):
            raise _LineError("a tensor is named twice", "each name once", min(again, default=pattern))
        self.entries.setdefault(files[0], []).extend([Entry(name, dtype, shape) for name in names])


def _shape(text: str) -> tuple[int, ...]:
    sizes = [size.strip() for size in text.split(",")] if text.strip() else []
    if not all(re.fullmatch(r"[0-9]{1,18}", size) for size in sizes):
        raise _LineError("the shape is not a list of sizes", "[256, 256]", f"[{text}]")
    return tuple(map(int, sizes))


def parse_skeleton(text: str, name: str = "skeleton") -> Index:
    """The index that a skeleton stands for, as if its files had been read.

    Offsets are those of real files with these tensors one after the other; several files have an index.json.
    Raises `HeaderError` SRC009 that names the line.
    """
    with quiet_gc():
        return _place(_read_lines(text, name))


def _read_lines(text: str, name: str) -> _Reading:
    reading = _Reading()
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        try:
            reading.line(stripped)
        except _LineError as error:
            raise HeaderError(Problem(code="SRC009", message=error.message, file=f"{name}: line {number}",
                                      expected=error.expected, got=error.got, hint=HINT)) from error  # fmt: skip
    return reading


def _place(reading: _Reading) -> Index:
    """Every tensor at the offsets that it would have in real files."""
    placed = [lay_out(file, reading.entries[file]) for file in sorted(reading.entries, key=natural_key)]
    tensors = {meta.name: meta for _, metas in placed for meta in metas}
    has_index = len(placed) > 1
    return Index(
        files={file.name: file for file, _ in placed}, strays={}, tensors=tensors, duplicates={},
        declared={meta.name: meta.file for meta in tensors.values()} if has_index else None,
        total_size=sum(meta.nbytes for meta in tensors.values()) if has_index else None, configs=reading.configs,
        embedded=reading.embedded,
    )  # fmt: skip


def write_skeleton(index: Index, *, files: bool = True) -> str:
    """The index as skeleton text, names folded; `parse_skeleton` gives back the same names, dtypes, shapes and files.

    `files=False` leaves the files out: DeepSeek-V3 then takes about 30 lines instead of 2,000.
    """
    return "\n".join([*_config_lines(index), *_tensor_lines(index, files=files)]) + "\n"


def _config_lines(index: Index) -> Iterator[str]:
    for file, config in index.configs.items():
        head = "config" if file == "config.json" else f"file {file}"
        yield f"{head} {json.dumps(config)}"
    for kind, document in index.embedded.items():
        yield f"inside {kind} {json.dumps(document)}"


def _tensor_lines(index: Index, *, files: bool) -> Iterator[str]:
    groups: dict[tuple[str, DType, tuple[int, ...]], list[str]] = {}
    for name, dtype, shape, file, _, _ in index.tensors.values():
        groups.setdefault((file if files else DEFAULT_FILE, dtype, shape), []).append(name)
    rows = [
        (natural_key(file), natural_key(names[0]), _token(pattern), dtype, shape, file)
        for (file, dtype, shape), members in groups.items()
        for pattern, names in fold(members)
    ]
    rows.sort(key=lambda row: (row[0], row[1]))
    width = min(max((len(row[2]) for row in rows), default=0), 88)
    for _, _, pattern, dtype, shape, file in rows:
        where = "" if file == DEFAULT_FILE else f"  @ {_token(_literal(file))}"
        yield f"{pattern:<{width}}  {dtype.value:<7}  {list(shape)}{where}"


def _literal(text: str) -> str:
    """Text as a pattern that stands for itself."""
    return re.sub(r"([\\{}])", r"\\\1", text)


def _token(pattern: str) -> str:
    """A pattern as one word of a line: spaces and unprintable characters by number, no comment sign in front."""
    if not pattern:
        return '""'
    word = "".join(char if char.isprintable() and char != " " else _by_number(char) for char in pattern)
    return "\\" + word if word[0] in '#"' else word


def _by_number(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def tensors_of(index: Index) -> frozenset[tuple[str, DType, tuple[int, ...], str]]:
    """What a skeleton keeps of an index: name, dtype, shape and file of each tensor."""
    return frozenset((name, dtype, shape, file) for name, dtype, shape, file, _, _ in index.tensors.values())
