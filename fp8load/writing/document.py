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
    removed = [edit.path for edit in wanted if edit.how == "remove"]
    for edit in wanted:
        if edit.how == "remove" or not any(edit.path[: len(path)] == path for path in removed):
            _apply(document, edit)
    found = _INDENT.match(text)
    indent = found[1] if found else (2 if "\n" in text.strip() or not text.strip() else None)
    written = json.dumps(document, indent=indent, ensure_ascii=text.isascii())
    return written + ("\n" if text.endswith("\n") or not text else "")


def _apply(document: dict[str, Any], edit: Edit) -> None:
    *parents, last = edit.path
    place = document
    for key in parents:
        place = place.setdefault(key, {})
    match edit.how:
        case "set":
            place[last] = edit.value
        case "remove":
            place.pop(last, None)
        case "append":
            entries = place.setdefault(last, [])
            if entries is None:  # `null` is an empty list in every dialect that has lists
                entries = place[last] = []
            if edit.value not in entries:
                entries.append(edit.value)
        case "discard":
            place[last] = [entry for entry in place.get(last) or [] if entry != edit.value]
