"""Actions gathered by file: what a copy of a checkpoint would be, as a diff, and as files in a new folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fp8load.index.configs import find_index
from fp8load.index.header import SNIFF, Header, read_header
from fp8load.index.index import Index
from fp8load.patterns import escape
from fp8load.source.base import Source
from fp8load.writing.actions import Action, Add, Convert, Drop, Edit, Omit, Remake, Rename, ShardAction
from fp8load.writing.diff import unified
from fp8load.writing.document import edited
from fp8load.writing.folder import new_folder, place, write_text
from fp8load.writing.shard import NewShard, new_shard
from fp8load.writing.together import refuse_two_ways


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """A copy of a checkpoint that differs from it.

    files      every file of the checkpoint and beside it, those in subfolders that index.json names too
    documents  JSON files that change: their text before and after
    shards     safetensors files that are written anew
    omitted    files that are left out
    lines      safetensors file -> its actions, as lines
    """

    source: Source
    files: Sequence[str]
    documents: Mapping[str, tuple[str, str]]
    shards: Mapping[str, NewShard]
    omitted: frozenset[str]
    lines: Mapping[str, Sequence[str]]

    @property
    def is_empty(self) -> bool:
        """Whether the copy would be the same."""
        return not (self.documents or self.shards or self.omitted)

    @property
    def nbytes(self) -> int:
        """Bytes of the files that are written anew."""
        texts = sum(len(after.encode()) for _, after in self.documents.values())
        return texts + sum(shard.nbytes for shard in self.shards.values())

    def diff(self) -> str:
        """Unified for JSON, which is shown in lines where it has none; of other files one line for each tensor."""
        out: list[str] = []
        for file, (before, after) in sorted(self.documents.items()):
            out += unified(*_in_lines(before, after), f"a/{file}" if before else "/dev/null", f"b/{file}")
        for file, lines in sorted(self.lines.items()):
            out += [f"--- a/{file}", "+++ /dev/null" if file in self.omitted else f"+++ b/{file}", *lines]
        return "".join(escape(line) + "\n" for line in out)

    def write(self, out: Path) -> None:
        """Write the copy: files that change anew, other safetensors files as hard links where the disk can, the rest
        as copies. `out` must be new or empty; it appears whole, at the end. Raises `UsageError`, `SourceError`.
        """
        with new_folder(out, nbytes=self.nbytes) as folder:
            for file in self.files:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                if file not in self.omitted and file not in self.documents and file not in self.shards:
                    place(self.source, file, folder / file, link=file.endswith(".safetensors"))
            for file, (_, text) in self.documents.items():
                write_text(folder / file, text)
            for file, shard in self.shards.items():
                shard.write(self.source, folder / file)


def changes_of(source: Source, index: Index, actions: Iterable[Action]) -> Changes:
    """What these actions make of a checkpoint. index.json follows: tensors that go, come and change their size."""
    unique = list({(type(action), action.file, str(action)): action for action in actions}.values())
    refuse_two_ways(unique)
    omitted = {action.file for action in unique if isinstance(action, Omit)}
    moved = _moved(unique)
    shard_actions: dict[str, list[ShardAction]] = {}
    edits: dict[str, list[Edit]] = {}
    for action in unique:
        if isinstance(action, Edit):
            edits.setdefault(action.file, []).append(action)
        elif not isinstance(action, Omit) and action.file not in omitted:
            coming = isinstance(action, Convert | Remake | Rename) and moved.get((action.file, action.meta.name))
            shard_actions.setdefault(coming or action.file, []).append(action)
    shards: dict[str, NewShard] = {}
    for file, wanted in shard_actions.items():
        shard = new_shard(file, _header(source, file), wanted)
        if shard.tensors:
            shards[file] = shard
        else:  # every tensor goes, and the file with them
            omitted.add(file)
    present = source.list()
    index_file = find_index(present)
    if index_file is not None:
        sums = any(edit.path == ("metadata", "total_size") for edit in edits.get(index_file, ()))
        # Last, so that what other repairs do to files is not overwritten by what one found before.
        edits.setdefault(index_file, []).extend(_followed(index, index_file, shard_actions, shards, sums=sums))
    lines = {file: tuple(map(str, wanted)) for file, wanted in shard_actions.items()}
    lines |= {file: ("- the whole file",) for file in omitted if file not in lines}
    return Changes(
        source=source,
        files=tuple(dict.fromkeys([*present, *index.files])),
        documents=_documents(source, omitted, edits),
        shards=shards,
        omitted=frozenset(omitted),
        lines=lines,
    )


def _moved(actions: Iterable[Action]) -> Mapping[tuple[str, str], str]:
    """File and name of tensors that move -> the file that they move to: what else is done to them is done there."""
    every = list(actions)
    to = {action.meta.name: action.file for action in every if isinstance(action, Add)}
    gone = [action.meta for action in every if isinstance(action, Drop)]
    return {(meta.file, meta.name): to[meta.name] for meta in gone if meta.name in to}


def _documents(source: Source, omitted: set[str], edits: Mapping[str, Sequence[Edit]]) -> dict[str, tuple[str, str]]:
    present = source.list()
    documents: dict[str, tuple[str, str]] = {}
    for file, wanted in edits.items():
        if file in omitted or not wanted:
            continue
        before = source.read(file, 0, source.size(file)).decode() if file in present else ""
        after = edited(before, wanted)
        if not before or json.loads(before) != json.loads(after):
            documents[file] = (before, after)
    return documents


def _header(source: Source, file: str) -> Header:
    return read_header(file, source.size(file), partial(source.read, file), first_read=SNIFF)


def _followed(
    index: Index,
    index_file: str,
    actions: Mapping[str, Sequence[ShardAction]],
    shards: Mapping[str, NewShard],
    *,
    sums: bool,
) -> Iterator[Edit]:
    """Edits of index.json that other actions bring along; `sums`: the total is written anew, whatever it was."""
    declared = index.declared or {}
    every = [(file, action) for file, wanted in actions.items() for action in wanted]
    coming = {action.to: file for file, action in every if isinstance(action, Rename)}
    coming |= {action.meta.name: file for file, action in every if isinstance(action, Add)}
    for file, action in every:
        if not isinstance(action, Drop | Rename) or action.meta.name in coming:  # one that moves goes, and comes
            continue
        if file in (declared.get(action.meta.name), _file_of(index, action.meta.name)):
            yield Edit(index_file, ("weight_map", action.meta.name), "remove")
    for name, file in coming.items():
        yield Edit(index_file, ("weight_map", name), "set", file)
    was_wrong = index.total_size != index.nbytes  # a finding of its own
    if not actions or (was_wrong and not sums):
        return
    before = {meta.name: meta.nbytes for meta in index.tensors.values() if meta.file in actions}
    after = {meta.name: meta.nbytes for file, shard in shards.items() if file in index.files for meta in shard.tensors}
    total = index.nbytes - sum(before.values()) + sum(after.values())
    if total != index.total_size or sums:
        yield Edit(index_file, ("metadata", "total_size"), "set", total)


def _file_of(index: Index, name: str) -> str | None:
    meta = index.tensors.get(name)
    return None if meta is None else meta.file


def _in_lines(before: str, after: str) -> tuple[str, str]:
    """Two versions of a document; both laid out where the first is one line: an index of a hundred thousand names."""
    if not before or "\n" in before.strip():
        return before, after
    first, second = (json.dumps(json.loads(text), indent=2, ensure_ascii=False) for text in (before, after))
    return first, second
