"""From a source to its index: each header read once and compared with index.json, every fault kept as a problem."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from fp8load.errors import HeaderError, NotFoundError, Problem, Severity
from fp8load.index.configs import IndexJson, find_index, read_configs, read_index_json
from fp8load.index.crosscheck import compare_with_index, missing_numbers, second_copies, two_places
from fp8load.index.embedded import read_embedded
from fp8load.index.header import FIRST_READ, SNIFF, Header, read_header
from fp8load.index.index import FileMeta, Index, TensorMeta
from fp8load.index.quiet_gc import quiet_gc
from fp8load.patterns import natural_key
from fp8load.source.base import Source
from fp8load.source.skeleton import SkeletonSource


@dataclass(slots=True)
class _Headers:
    """Headers by file, and the problems of the files that have none."""

    by_file: dict[str, Header] = field(default_factory=dict)
    problems: dict[str, Problem] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def meta(self, file: str) -> FileMeta:
        header = self.by_file[file]
        return FileMeta(name=file, nbytes=self.sizes[file], header_nbytes=header.nbytes,
                        num_tensors=len(header.tensors), metadata=header.metadata,
                        header_digest=header.digest)  # fmt: skip


def build_index(source: Source) -> Index:
    """Read every header of `source` and compare them with index.json.

    No tensor data is read, but for tensors that are a configuration (ComfyUI's `X.comfy_quant`, some bytes each).

    Faults of the checkpoint become `Index.problems`; only a source that cannot answer raises `SourceError`, and one
    without any safetensors file `NotFoundError` SRC008, which names what is there.
    """
    if isinstance(source, SkeletonSource):
        return source.index
    with quiet_gc():
        return _build(source)


def _build(source: Source) -> Index:
    present = source.list()
    configs, problems = read_configs(source, present)
    index_file = find_index(present)
    index_json: IndexJson | None = None
    if index_file is not None:
        index_json, more = read_index_json(source, index_file)
        problems += more
    members, strays = _choose_files(present, index_json)
    if not members and not strays:
        raise _no_safetensors(source, present)
    headers = _read_headers(source, [*members, *strays], present)
    problems += _file_problems(headers, members, index_json)
    tensors, duplicates = _collect(headers, members, index_json)
    problems += two_places(tensors, duplicates, index_json)
    if index_json is not None:
        problems += compare_with_index(tensors, headers.by_file, members, index_json)
    else:
        problems += missing_numbers(members)
    files = {name: headers.meta(name) for name in members if name in headers.by_file}
    embedded, more = read_embedded(source, files, tensors)
    problems += more
    declared = None if index_json is None else index_json.weight_map
    problems += second_copies(
        tensors, {name: headers.by_file[name] for name in strays if name in headers.by_file}, declared
    )
    return Index(
        files=files,
        strays={name: headers.meta(name) for name in strays if name in headers.by_file},
        tensors=tensors, duplicates=duplicates, declared=declared,
        configs=configs, embedded=embedded, problems=tuple(problems),
        total_size=None if index_json is None else index_json.total_size,
    )  # fmt: skip


def _choose_files(present: Mapping[str, int | None], index_json: IndexJson | None) -> tuple[list[str], list[str]]:
    """Files that are the checkpoint, and strays. Without an index the files called model* are it, else all files."""
    shown = sorted((name for name in present if name.endswith(".safetensors") and "/" not in name), key=natural_key)
    if index_json is not None:
        members = sorted(set(index_json.weight_map.values()), key=natural_key)
    else:
        members = [name for name in shown if name.startswith("model")] or shown
    chosen = set(members)
    return members, [name for name in shown if name not in chosen]


def _no_safetensors(source: Source, present: Mapping[str, int | None]) -> NotFoundError:
    names = [name for name in present if not name.startswith(".")]
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    pickled = any(name.endswith((".bin", ".pt", ".pth", ".ckpt")) for name in names)
    gguf = any(name.endswith(".gguf") for name in names)
    gguf_hint = "GGUF files are not read" if gguf else "check the path, or whether the download has finished"
    hint = "weights in pickle files are not read: convert them to safetensors" if pickled else gguf_hint
    return NotFoundError(Problem(
        code="SRC008", message="there is no safetensors file here", file=source.info.id, expected="*.safetensors",
        got=shown or "nothing", hint=hint))  # fmt: skip


def _read_headers(source: Source, files: list[str], present: Mapping[str, int | None]) -> _Headers:
    headers = _Headers()
    first_read = FIRST_READ if source.remote else SNIFF

    def read_one(file: str) -> tuple[str, int, Header | Problem]:
        try:
            size = present.get(file)
            size = source.size(file) if size is None else size
        except NotFoundError as error:
            # listed and yet not there: a dangling link of a broken cache. Not listed: the shard is missing.
            return file, 0, replace(error.problem, code="F8L010" if file in present else "F8L003")
        try:
            return file, size, read_header(file, size, partial(source.read, file), first_read=first_read)
        except HeaderError as error:
            return file, size, error.problem

    if source.parallel_reads > 1 and len(files) > 1:
        with ThreadPoolExecutor(min(source.parallel_reads, len(files)), "fp8load-headers") as pool:
            results: Iterable[tuple[str, int, Header | Problem]] = list(pool.map(read_one, files))
    else:
        results = map(read_one, files)
    for file, size, found in results:
        headers.sizes[file] = size
        if isinstance(found, Problem):
            headers.problems[file] = found
        else:
            headers.by_file[file] = found
    return headers


def _file_problems(headers: _Headers, members: list[str], index_json: IndexJson | None) -> list[Problem]:
    """What is wrong with each file by itself; a stray's own faults never refuse loading."""
    problems: list[Problem] = []
    indexed = set(members)
    for file, problem in headers.problems.items():
        if file not in indexed:
            problems.append(replace(problem, severity=Severity.WARNING, refuses=False))
        elif problem.code == "F8L003" and index_json is not None:
            problems.append(_missing_shard(file, index_json, headers.by_file))
        else:
            problems.append(problem)
    for file, header in headers.by_file.items():
        stray = file not in indexed
        problems += [replace(problem, refuses=False) if stray else problem for problem in header.problems]
    return problems


def _missing_shard(file: str, index_json: IndexJson, by_file: Mapping[str, Header]) -> Problem:
    names = [name for name, where in index_json.weight_map.items() if where == file]
    first = names[0]
    elsewhere = next((other for other, header in by_file.items() if any(first == t.name for t in header.tensors)), None)
    return Problem(
        code="F8L003", message="the index needs a shard that is not here" if elsewhere is None
        else "the index is of another export: it needs a shard that is not here", file=file, tensor=first,
        expected=f"a file with {len(names):,} tensors of {index_json.file}, {first} the first",
        got="no such file" if elsewhere is None else f"no such file; {first} lies in {elsewhere}",
        hint="fetch the file, or ask the publisher: the index and the files come from different exports"
        if elsewhere is None else f"write {index_json.file} again, from the files that are here")  # fmt: skip


def _collect(
    headers: _Headers, members: list[str], index_json: IndexJson | None
) -> tuple[dict[str, TensorMeta], dict[str, tuple[TensorMeta, ...]]]:
    """Tensors by name in file order, and further places of names that lie in several files.

    Of such a name the place that index.json gives is kept, else the first.
    """
    tensors: dict[str, TensorMeta] = {}
    duplicates: dict[str, tuple[TensorMeta, ...]] = {}
    for file in members:
        if file not in headers.by_file:
            continue
        table = {meta.name: meta for meta in headers.by_file[file].tensors}
        for name in tensors.keys() & table.keys():
            other = table[name]
            if index_json is not None and index_json.weight_map.get(name) == file:
                tensors[name], other = other, tensors[name]
            duplicates[name] = (*duplicates.get(name, ()), other)
            del table[name]
        tensors |= table
    return tensors, duplicates
