"""An entry of an ignore list under every reading that tools have: which quantized modules each of them covers.

Tools compare an entry with a module's name in six ways: exact, as a dotted suffix, as a substring, as a shell glob, and
as a regular expression from the start or anywhere. Lists have thousands of entries and checkpoints tens of thousands of
modules, so modules are looked at in groups that no entry without digits can tell apart, and entries with numbers meet
only modules that have the number.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from fp8load.rules.listed import PLAIN

_DIGITS = re.compile(r"\d+")
_WHOLE = re.compile(r"(?:(?<=[A-Za-z_]\.)|(?<=[A-Za-z_]\\\.))\d+(?=\\?\.[A-Za-z_])")
"""Numbers of an entry that are whole numbers in every name that it covers, also where a dot is any character."""

_SIMPLE = re.compile(r"[\w.*-]+")
"""Entries of which every reading takes digits one by one."""

Reading = tuple[str, Callable[[str], bool]]


class Reach(NamedTuple):
    """What one reading of an entry covers: its name, how many modules, and one of them."""

    reading: str
    num_modules: int
    example: str


def readings(entry: str) -> tuple[Reading, ...]:
    """Name and test of each reading. A plain name is no glob; what is no valid regular expression is not read as one.

    `re:` in front is no part of an expression, and makes every other reading cover nothing.
    """
    expression = entry.removeprefix("re:")
    found: list[Reading] = []
    if expression == entry:
        found += [
            ("exact", lambda module: module == entry),
            ("dotted suffix", lambda module: module == entry or module.endswith(f".{entry}")),
            ("substring", lambda module: entry in module),
        ]
        if PLAIN.fullmatch(entry) is None:
            glob = re.compile(fnmatch.translate(entry))
            found.append(("fnmatch", lambda module: glob.match(module) is not None))
    compiled = _compiled(expression)
    if compiled is not None:
        found.append(("re.match", lambda module: compiled.match(module) is not None))
        found.append(("re.search", lambda module: compiled.search(module) is not None))
    return tuple(found)


def _compiled(expression: str) -> re.Pattern[str] | None:
    try:
        return re.compile(expression)
    except re.error:  # "*.gate" is a glob: no tool reads it as an expression
        return None


class Readers:
    """Modules, arranged so that each entry meets few of them."""

    def __init__(self, modules: Iterable[str]) -> None:
        self._groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
        self._by_number: dict[str, list[str]] = {}
        for module in modules:
            numbers = _DIGITS.findall(module)
            self._groups.setdefault((_shape(module), tuple(map(len, numbers))), []).append(module)
            for number in set(numbers):
                self._by_number.setdefault(number, []).append(module)
        self._shapes = {shape for shape, _ in self._groups}
        self._hits: dict[str, bool] = {}

    def reach(self, entry: str, covers: Callable[[str, str], bool]) -> Iterator[Reach]:
        """The readings under which an entry covers modules that it does not cover in its own dialect."""
        groups = list(self._candidates(entry))
        for reading, test in readings(entry):
            reached = [group for group in groups if test(group[0]) and not covers(entry, group[0])]
            if reached:
                yield Reach(reading, sum(map(len, reached)), reached[0][0])

    def _candidates(self, entry: str) -> Iterator[list[str]]:
        """Groups of modules that any reading covers whole or not at all."""
        if not _DIGITS.search(entry.replace("[0-9]", "")):
            yield from self._groups.values()
        elif _SIMPLE.fullmatch(entry) is None or self._may_hit(_shape(entry)):
            numbers = _WHOLE.findall(entry)
            among = min((self._by_number.get(number, []) for number in numbers), key=len, default=None)
            modules = among if among is not None else [module for group in self._groups.values() for module in group]
            yield from ([module] for module in modules)

    def _may_hit(self, shape: str) -> bool:
        """Whether some reading covers some module when all numbers are taken for equal."""
        if shape not in self._hits:
            tests = [test for _, test in readings(shape)]
            self._hits[shape] = any(test(module) for test in tests for module in self._shapes)
        return self._hits[shape]


def _shape(name: str) -> str:
    """A name with "#" for each run of digits."""
    return _DIGITS.sub("#", name)
