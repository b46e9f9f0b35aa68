"""index.json against the headers, both ways: F8L004, F8L005 and F8L006; without one, files by their numbers: F8L003."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from fp8load.errors import Problem, Severity
from fp8load.index.configs import IndexJson
from fp8load.index.header import Header
from fp8load.index.index import TensorMeta

_NUMBERED = re.compile(r"(.*?)(\d{1,6})-of-(\d{1,6})(\.safetensors)")
_IN_A_LAYER = re.compile(r"(?<![^.])[^.]+\.\d+\..+")
MAX_SHARDS = 10_000
"""More are no checkpoint's, and not listed one by one."""

_TWICE = "a tensor lies in two files; readers of whole files take whichever comes last"
_Tensors = Mapping[str, TensorMeta]
_Duplicates = Mapping[str, tuple[TensorMeta, ...]]


def two_places(tensors: _Tensors, duplicates: _Duplicates, index_json: IndexJson | None) -> list[Problem]:
    """F8L005 for every name that lies in several files: engines take whichever they read last."""
    note = {True: ", indexed", False: ""}
    problems: list[Problem] = []
    for name, others in duplicates.items():
        first = tensors[name]
        declared = None if index_json is None else index_json.weight_map.get(name)
        expected = f"only in {first.file} ({first}{note[declared == first.file]})"
        problems += [
            Problem(code="F8L005", message=_TWICE, tensor=name, file=other.file, expected=expected,
                    got=f"also {other} in {other.file}", hint="rewrite one of the files without it")
            for other in others
        ]  # fmt: skip
    return problems


def compare_with_index(
    tensors: _Tensors, headers: Mapping[str, Header], members: list[str], index_json: IndexJson
) -> list[Problem]:
    """F8L004 for promises that no header keeps, F8L005 for tensors that the index does not promise.

    `headers` are those of all files that have one, strays too: a tensor may lie in a file that no entry names.
    """
    declared = index_json.weight_map
    files = [meta.file for meta in tensors.values()]
    if len(declared) == len(files) and list(map(declared.get, tensors)) == files:
        return []
    stored = dict(zip(tensors, files, strict=True))
    unreadable = {file for file in members if file not in headers}  # reported by themselves, once
    anywhere = {meta.name: file for file, header in headers.items() for meta in header.tensors} | stored
    problems = [
        _absent(name, file, anywhere.get(name), index_json.file)
        for name, file in declared.items()
        if stored.get(name) != file and file not in unreadable
    ]
    return problems + [
        Problem(code="F8L005", message="a tensor is stored and the index does not name it", tensor=name,
                file=meta.file, expected=f"an entry in {index_json.file}", got=f"{meta}, without an entry",
                severity=Severity.WARNING, refuses=False,
                hint="add it to weight_map in the index, or fetch the index again")
        for name, meta in tensors.items() if name not in declared
    ]  # fmt: skip


def _absent(name: str, file: str, elsewhere: str | None, index_file: str) -> Problem:
    got = f"it lies in {elsewhere}" if elsewhere else "it is in no shard"
    hint = (f"correct its entry in weight_map of {index_file}" if elsewhere else
            "shard and index come from different exports: fetch both again, or ask the publisher")  # fmt: skip
    return Problem(code="F8L004", message="the index promises a tensor that the shard does not hold", tensor=name,
                   file=file, expected=f"an entry in its header, says {index_file}", got=got, hint=hint)  # fmt: skip


def second_copies(tensors: _Tensors, strays: Mapping[str, Header], declared: Mapping[str, str] | None) -> list[Problem]:
    """F8L006 for strays that hold over half of the parameters, or weights for over half of the modules (packed ones are
    fewer elements, and may stand under another prefix); F8L005 for each tensor of the smaller ones.

    What index.json promises in another file is left out: F8L004 has said where it lies, or F8L003 that the index is of
    another export. Where no file of the index is here, what lies beside it is no second copy, but the only one.
    """
    if not strays:
        return []
    whole = sum(meta.num_elements for meta in tensors.values())
    modules = _modules(tensors)
    lost = () if declared is None else declared.keys() - tensors.keys()
    problems: list[Problem] = []
    for files in _families(strays):
        metas = [meta for file in files for meta in strays[file].tensors if meta.name not in lost]
        num_params = sum(meta.num_elements for meta in metas)
        num_alike = len(modules & _modules(meta.name for meta in metas))
        if (num_params > whole / 2 and whole) or num_alike > len(modules) / 2:
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            problems.append(Problem(
                code="F8L006", message="a second copy of the weights lies beside the checkpoint", file=files[0],
                expected="only the files of the checkpoint", severity=Severity.WARNING, refuses=False,
                got=f"{files[0]}{more}: {len(metas):,} tensors, {num_params:,} parameters (the checkpoint: {whole:,})",
                hint="loaders that read *.safetensors merge both: exclude or delete one copy"))  # fmt: skip
        else:
            problems += [_stray_tensor(meta, tensors.get(meta.name)) for meta in metas]
    return problems


def _modules(names: Iterable[str]) -> set[str]:
    """Numbered modules that hold more than scales and biases, without what stands before "layers.0" in their names."""
    found: set[str] = set()
    for name in names:
        module, _, last = name.rpartition(".")
        match = _IN_A_LAYER.search(module) if "scale" not in last and last != "bias" else None
        if match is not None:
            found.add(match[0])
    return found


def missing_numbers(members: list[str]) -> list[Problem]:
    """F8L003 by names alone, where no index says what there should be: "-00003-of-00004" between files of four.

    Numbers begin at 1, or at 0 where that is there. One file alone may have been asked for on purpose.
    """
    exports: dict[tuple[str, str], dict[int, str]] = {}
    for file in members:
        if match := _NUMBERED.fullmatch(file):
            exports.setdefault((match[1], match[3]), {})[int(match[2])] = file
    problems: list[Problem] = []
    for (stem, total), files in exports.items():
        if not 1 < len(files) < int(total) <= MAX_SHARDS:
            continue
        first = 0 if 0 in files else 1
        width = min(len(file) for file in files.values()) - len(f"{stem}-of-{total}.safetensors")
        problems += [
            Problem(
                code="F8L003", message="a shard is missing from a numbered export", refuses=False,
                file=f"{stem}{number:0{width}}-of-{total}.safetensors", got=f"{len(files):,} of them, and no index",
                expected=f"{int(total):,} files, by their names", hint="fetch the file, and the index",
            )
            for number in range(first, first + int(total)) if number not in files
        ]  # fmt: skip
    return problems


def _families(files: Mapping[str, Header]) -> Iterator[list[str]]:
    """Files of one export: equal names but for their numbers."""
    families: dict[str, list[str]] = {}
    for file in files:
        families.setdefault(re.sub(r"\d+", "", file), []).append(file)
    yield from families.values()


def _stray_tensor(meta: TensorMeta, indexed: TensorMeta | None) -> Problem:
    if indexed is None:
        return Problem(
            code="F8L005", message="a tensor lies in a file that does not belong to the checkpoint", tensor=meta.name,
            file=meta.file, expected="an entry in the index, or no such file", got=f"{meta}, not indexed",
            severity=Severity.WARNING, refuses=False, hint="complete the index, or delete the file")  # fmt: skip
    return Problem(
        code="F8L005", message=_TWICE, tensor=meta.name, file=meta.file, refuses=False,
        expected=f"only in {indexed.file} ({indexed}, indexed)", got=f"also {meta} in {meta.file}, not indexed",
        hint="delete the file, or rewrite it without the tensor")  # fmt: skip
