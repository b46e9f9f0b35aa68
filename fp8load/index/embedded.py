"""What safetensors files say of their own quantization: ComfyUI's metadata and marker tensors, torchao's metadata.

Three kinds, each kept as a mapping of a name, a layer's or a tensor's, to what is said of it:

    comfy_metadata  the header's `__metadata__._quantization_metadata`, a JSON text {"format_version", "layers"}
    comfy_quant     a tensor `<layer>.comfy_quant` for each quantized layer: U8, the bytes of a JSON object
    torchao         the header's `__metadata__`, an entry of JSON text for each tensor; those of plain ones are left out

Source: ComfyUI QUANTIZATION.md and `convert_old_quants`; torchao `prototype/safetensors`. The marker tensors are the
only tensor data that opening a checkpoint reads: some fifty bytes each, neighbours in one read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fp8load.dtypes import DType
from fp8load.errors import Problem
from fp8load.index.index import FileMeta, TensorMeta
from fp8load.index.strict_json import refuse_constant, refuse_duplicates
from fp8load.source.base import Source

METADATA = "comfy_metadata"
MARKERS = "comfy_quant"
TORCHAO = "torchao"
KINDS = (METADATA, MARKERS, TORCHAO)

METADATA_KEY = "_quantization_metadata"
MARKER_SUFFIX = ".comfy_quant"

_ENTRY, _PLAIN = '{"_type": ', '{"_type": "Tensor"'
"""How torchao's entries begin, and those of tensors that are not quantized."""

MARKER_CAP = 4096
"""Bytes of one marker. Real ones have 27 to 120; a file may call a tensor of any size a marker."""

_GAP = {False: 4096, True: 64 * 1024}
"""Bytes between two markers that are read along rather than asked for separately: on a disk, over a network."""

_RUN_CAP = 8 << 20

Embedded = dict[str, dict[str, Any]]


def read_embedded(
    source: Source, files: Mapping[str, FileMeta], tensors: Mapping[str, TensorMeta]
) -> tuple[Embedded, list[Problem]]:
    """All kinds, as far as they are there, and a problem for each that cannot be read as JSON.

    A `SourceError` passes through: then the checkpoint could not be opened.
    """
    found: Embedded = {}
    problems: list[Problem] = []
    for file in files.values():
        text = file.metadata.get(METADATA_KEY)
        if text is not None:
            layers = _layers(text, file.name)
            if isinstance(layers, Problem):
                problems.append(layers)
            else:
                known = found.setdefault(METADATA, {})
                problems += [_two(name, file.name, known[name], said) for name, said in layers.items()
                             if known.setdefault(name, said) != said]  # fmt: skip
        for name, entry in file.metadata.items():
            if entry.startswith(_ENTRY) and not entry.startswith(_PLAIN):
                told = _dump(name, entry, file.name)
                if isinstance(told, Problem):
                    problems.append(told)
                else:
                    found.setdefault(TORCHAO, {})[name] = told
    markers = [meta for name, meta in tensors.items() if name.endswith(MARKER_SUFFIX)]
    problems += [_no_marker(meta) for meta in markers if not _readable(meta)]
    for meta, data in _read(source, list(filter(_readable, markers))):
        said = _said(data, meta)
        if isinstance(said, Problem):
            problems.append(said)
        else:
            found.setdefault(MARKERS, {})[meta.name.removesuffix(MARKER_SUFFIX)] = said
    return found, problems


def _readable(meta: TensorMeta) -> bool:
    return meta.dtype is DType.U8 and meta.nbytes <= MARKER_CAP


def _read(source: Source, metas: list[TensorMeta]) -> Iterator[tuple[TensorMeta, bytes]]:
    """The bytes of each tensor, neighbours read together."""
    runs = list(_runs(sorted(metas, key=lambda meta: (meta.file, meta.begin)), _GAP[source.remote]))

    def read(run: list[TensorMeta]) -> bytes:
        return source.read(run[0].file, run[0].begin, run[-1].end)

    if source.parallel_reads > 1 and len(runs) > 1:
        with ThreadPoolExecutor(min(source.parallel_reads, len(runs)), "fp8load-markers") as pool:
            blobs = list(pool.map(read, runs))
    else:
        blobs = [read(run) for run in runs]
    for run, blob in zip(runs, blobs, strict=True):
        for meta in run:
            yield meta, blob[meta.begin - run[0].begin : meta.end - run[0].begin]


def _runs(metas: list[TensorMeta], gap: int) -> Iterator[list[TensorMeta]]:
    run: list[TensorMeta] = []
    for meta in metas:
        near = bool(run) and meta.file == run[-1].file and meta.begin - run[-1].end <= gap
        if run and not (near and meta.end - run[0].begin <= _RUN_CAP):
            yield run
            run = []
        run.append(meta)
    if run:
        yield run


def _json(text: bytes | str) -> Any:
    return json.loads(text, object_pairs_hook=refuse_duplicates, parse_constant=refuse_constant)


def _layers(text: str, file: str) -> dict[str, Any] | Problem:
    """The layers of a `_quantization_metadata`."""
    expected = '{"layers": {name: format}}'
    try:
        document = _json(text)
    except (ValueError, RecursionError) as error:
        return _unreadable(f"{METADATA_KEY} in the header is not valid JSON", file, "", expected, str(error))
    layers = document.get("layers") if isinstance(document, dict) else None
    if not isinstance(layers, dict):
        return _unreadable(f"{METADATA_KEY} in the header lists no layers", file, "", expected, text[:80])
    return layers


def _dump(name: str, text: str, file: str) -> dict[str, Any] | Problem:
    """torchao's entry for one tensor."""
    try:
        entry: dict[str, Any] = _json(text)
    except (ValueError, RecursionError) as error:
        message = "an entry of torchao's __metadata__ is not valid JSON"
        return _unreadable(message, file, name, '{"_type": ..., "_data": ...}', str(error))
    return entry


def _said(data: bytes, meta: TensorMeta) -> dict[str, Any] | str | Problem:
    """What one marker says. Zero bytes at the end are padding."""
    try:
        document = _json(data.rstrip(b"\0"))
    except (ValueError, RecursionError) as error:
        return _unreadable("a layer's marker is not valid JSON", meta.file, meta.name, '{"format": ...}', str(error))
    if not isinstance(document, dict | str):
        return _unreadable("a layer's marker is no object", meta.file, meta.name, '{"format": ...}', str(document)[:80])
    return document


def _two(layer: str, file: str, first: Any, second: Any) -> Problem:
    return Problem(code="F8L103", message="the headers of two files say different things of a layer", file=file,
                   module=layer, expected=f"{first!r}, as in a file before it", got=repr(second),
                   hint="only one can be true of its tensors: keep the file that they came with")  # fmt: skip


def _no_marker(meta: TensorMeta) -> Problem:
    return _unreadable("a tensor that is called a marker cannot be one", meta.file, meta.name,
                       f"U8, at most {MARKER_CAP:,} bytes of JSON", str(meta))  # fmt: skip


def _unreadable(message: str, file: str, tensor: str, expected: str, got: str) -> Problem:
    return Problem(code="F8L110", message=message, file=file, tensor=tensor, expected=expected, got=got,
                   hint="without it nobody can know how the layer is stored: fetch the file again")  # fmt: skip
