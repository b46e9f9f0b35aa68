"""JSON as the standard has it: no key twice in an object, no NaN. `json.loads` alone is lenient about both."""

from __future__ import annotations

from typing import Any


class DuplicateKeyError(ValueError):
    """One object of a JSON document has the same key twice."""

    def __init__(self, key: str, first: Any, second: Any) -> None:
        super().__init__(f"{key!r} appears twice")
        self.key, self.first, self.second = key, first, second


def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """`object_pairs_hook`: json.loads alone would keep the last of two equal keys and lose the other in silence."""
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                raise DuplicateKeyError(key, seen[key], value)
            seen[key] = value
    return table


def refuse_constant(constant: str) -> None:
    """`parse_constant`: NaN and Infinity are Python's idea of JSON only."""
    raise ValueError(f"{constant} is not JSON")
