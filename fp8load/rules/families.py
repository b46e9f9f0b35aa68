"""Families of names: those that are equal but for their numbers. The odd ones out of a family are what is wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from functools import cached_property

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")

MAX_SHOWN = 2
"""Families that one text names."""


def family(name: str) -> str:
    """The name with "*" for each component that is a number: "model.layers.*.mlp.down_proj.weight"."""
    return _NUMBER.sub("*", name)


class Families:
    """How many members each family of a checkpoint has; names that are missing belong to families too."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names

    @cached_property
    def _sizes(self) -> Counter[str]:
        return Counter(map(family, self._names))

    def share(self, names: Iterable[str]) -> str:
        """ "2 of 62 model.layers.*.mlp.down_proj.weight": what part of their families the names are.

        Empty where they are whole families, or have no relatives.
        """
        named = dict.fromkeys(names)  # in order, so that equal reports have equal texts
        counts = Counter(map(family, named))
        absent = Counter(family(name) for name in named if name not in self._names)
        parts = []
        for key, count in counts.items():
            size = self._sizes[key] + absent[key]
            if count < size:
                parts.append(f"{count:,} of {size:,} {key}")
        more = f" and {len(parts) - MAX_SHOWN:,} more" if len(parts) > MAX_SHOWN else ""
        return ", ".join(parts[:MAX_SHOWN]) + more
