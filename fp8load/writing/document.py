"""Edits of JSON files that leave everything else as it was: order of keys, indentation, last newline."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from fp8load.writing.actions import Edit

_INDENT = re.compile(r"\{\s*\n([ \t]+)\S")


def edited(text: str, edits: Iterable[Edit]) -> str:
    """A JSON document after edits, in the order given, written like the original; in what is removed nothing is set.

    Raises `ValueError` for no JSON.
    """
    document = json.loads(text) if text.strip() else {}
    wanted = list(edits)
    removed = {edit.path for edit in wanted if edit.how == "remove"}
    lists: dict[tuple[str, ...], _List] = {}
    for edit in wanted:
        if edit.how != "remove" and any(edit.path[:depth] in removed for depth in range(len(edit.path) + 1)):
            continue
        if edit.how in ("append", "discard"):
            lists.setdefault(edit.path, _List()).add(edit)
        else:
            _apply(document, edit)
    for path, changes in lists.items():
        place = _parent(document, path)
        place[path[-1]] = changes.of(place.get(path[-1]) or [])  # `null` is an empty list in every dialect with lists
    found = _INDENT.match(text)
    indent = found[1] if found else (2 if "\n" in text.strip() or not text.strip() else None)
    written = json.dumps(document, indent=indent, ensure_ascii=text.isascii())
    return written + ("\n" if text.endswith("\n") or not text else "")


class _List:
    """What comes to a list, and what goes: thousands of entries, each looked up once."""

    def __init__(self) -> None:
        self._new: dict[str, None] = {}
        self._old: set[str] = set()

    def add(self, edit: Edit) -> None:
        """One entry; what comes after it has gone stays."""
        if edit.how == "append":
            self._new[edit.value] = None
            self._old.discard(edit.value)
        else:
            self._old.add(edit.value)
            self._new.pop(edit.value, None)

    def of(self, entries: list[str]) -> list[str]:
        """The entries after that: those that stay, in their order, then new ones."""
        kept = [entry for entry in entries if entry not in self._old]
        known = set(kept)
        return [*kept, *(entry for entry in self._new if entry not in known)]


def _parent(document: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    place = document
    for key in path[:-1]:
        place = place.setdefault(key, {})
    return place


def _apply(document: dict[str, Any], edit: Edit) -> None:
    place = _parent(document, edit.path)
    if edit.how == "set":
        place[edit.path[-1]] = edit.value
    else:
        place.pop(edit.path[-1], None)
