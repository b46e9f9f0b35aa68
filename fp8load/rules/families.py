"""Families of names: those that are equal but for their numbers. The odd ones out of a family are what is wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")

MAX_SHOWN = 2
"""Families that one text names."""


def family(name: str) -> str:
    """The name with "*" for each component that is a number: "model.layers.*.mlp.down_proj.weight"."""
    return _NUMBER.sub("*", name)


class Families:
    """How many members each family of a checkpoint has; names that are missing belong to families too."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._sizes = Counter(map(family, self._names))

    def share(self, names: Iterable[str]) -> str:
        """ "2 of 62 model.layers.*.mlp.down_proj.weight": what part of their families the names are.

        Empty where they are whole families, or have no relatives.
        """
        named = set(names)
        counts = Counter(map(family, named))
        absent = Counter(map(family, named - self._names))
        parts = []
        for key, count in counts.items():
            size = self._sizes[key] + absent[key]
            if count < size:
                parts.append(f"{count:,} of {size:,} {key}")
        more = f" and {len(parts) - MAX_SHOWN:,} more" if len(parts) > MAX_SHOWN else ""
        return ", ".join(parts[:MAX_SHOWN]) + more
