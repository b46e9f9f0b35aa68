r"""Patterns over dotted names: expand a skeleton's, fold many names into few, match globs, natural order, safe display.

The grammar of a pattern is in `fp8load.braces`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import product
from operator import itemgetter

from fp8load.braces import MAX_NAMES, expand, parse

__all__ = ["MAX_NAMES", "escape", "expand", "fold", "glob_match", "natural_key"]

_DIGITS = re.compile(r"([0-9]{1,18})")  # 18 digits at once: int() refuses more than 4300, and a name may have them
_INTEGER = re.compile(r"0|[1-9][0-9]{0,17}")


def natural_key(name: str) -> tuple[str | int, ...]:
    """Sort key under which layer 2 comes before layer 10."""
    pieces: list[str | int] = list(_DIGITS.split(name))
    pieces[1::2] = [int(digits) for digits in pieces[1::2]]
    return tuple(pieces)


def escape(text: str) -> str:
    r"""Text from a checkpoint made safe to print: control, format and bidirectional characters show as `\u202e`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class _Kinds(dict[str, str | None]):
    """Component -> itself, or None for an integer. A dictionary, because 92,000 names have some 300 components."""

    def __missing__(self, component: str) -> str | None:
        kind = self[component] = None if _INTEGER.fullmatch(component) else component
        return kind


_Choices = tuple[frozenset[str], ...]


def fold(names: Iterable[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Names as few patterns, each with the names that it stands for; all in natural order.

    Integer components fold into ranges, other components into alternatives, where the product is complete: the
    patterns expand to exactly the set of names, each name once.
    """
    kinds = _Kinds()
    groups: dict[tuple[str | None, ...], list[tuple[str, ...]]] = {}
    for name in dict.fromkeys(names):
        components = tuple(name.split("."))
        groups.setdefault(tuple(map(kinds.__getitem__, components)), []).append(components)
    blocks = [block for template, members in groups.items() for block in _products(template, members)]
    for position in range(max(map(len, blocks), default=0)):
        blocks = _merge(blocks, position, kinds)
    folded = []
    for block in blocks:
        columns = [_ordered(choices) for choices in block]
        pattern = ".".join(_show(column, is_integer=kinds[column[0]] is None) for column in columns)
        folded.append((pattern, tuple(map(".".join, product(*columns)))))
    return sorted(folded, key=lambda item: natural_key(item[1][0]))


def _products(template: tuple[str | None, ...], members: list[tuple[str, ...]]) -> Iterator[_Choices]:
    """Disjoint products whose union is `members`: names that differ in the integers (None) of `template` only."""
    at_integers = [at for at, component in enumerate(template) if component is None]
    fixed = [frozenset((component,)) for component in members[0]]
    if not at_integers:
        yield tuple(fixed)
        return
    pick = itemgetter(*at_integers) if len(at_integers) > 1 else itemgetter(slice(at_integers[0], at_integers[0] + 1))
    for block in _blocks([pick(member) for member in members], 0):
        for at, choices in zip(at_integers, block, strict=True):
            fixed[at] = choices
        yield tuple(fixed)


def _blocks(members: list[tuple[str, ...]], at: int) -> tuple[_Choices, ...]:
    """Disjoint products whose union is `members` from position `at` on; equal remainders share one product."""
    last = len(members[0]) - 1
    if at == last:
        return ((frozenset([member[at] for member in members]),),)
    by_choice: dict[str, list[tuple[str, ...]]] = {}
    for member in members:
        by_choice.setdefault(member[at], []).append(member)
    by_rest: dict[tuple[_Choices, ...], list[str]] = {}
    for choice, subset in by_choice.items():
        by_rest.setdefault(_blocks(subset, at + 1), []).append(choice)
    return tuple((frozenset(choices), *rest) for rests, choices in by_rest.items() for rest in rests)


def _merge(blocks: list[_Choices], position: int, kinds: _Kinds) -> list[_Choices]:
    """Blocks that differ at one position only become one; integers merge with integers only."""
    merged: dict[tuple[object, ...], set[str]] = {}
    for block in blocks:
        if position >= len(block):
            merged[block, None] = set()
            continue
        is_integer = kinds[next(iter(block[position]))] is None
        merged.setdefault((block[:position], block[position + 1 :], is_integer), set()).update(block[position])
    result: list[_Choices] = []
    for key, choices in merged.items():
        match key:
            case (tuple() as before, tuple() as after, bool()):
                result.append((*before, frozenset(choices), *after))
            case (tuple() as block, None):
                result.append(block)
    return result


def _ordered(choices: frozenset[str]) -> list[str]:
    return list(choices) if len(choices) == 1 else sorted(choices, key=natural_key)


def _quote(text: str, special: str = "\\{}") -> str:
    return "".join("\\" + char if char in special else char for char in text)


def _show(choices: list[str], *, is_integer: bool) -> str:
    """One component of a pattern."""
    if len(choices) == 1:
        return _quote(choices[0])
    if is_integer:
        return "{" + ",".join(_runs([int(choice) for choice in choices])) + "}"
    words = [choice.split("_") for choice in choices]
    prefix = _common(words, lambda word, at: word[at])
    suffix = _common([word[prefix:] for word in words], lambda word, at: word[-1 - at])
    middles = ["_".join(word[prefix : len(word) - suffix]) for word in words]
    head = "".join(word + "_" for word in words[0][:prefix])
    tail = "".join("_" + word for word in words[0][len(words[0]) - suffix :])
    return _quote(head) + "{" + ",".join(_quote(middle, "\\{},") for middle in middles) + "}" + _quote(tail)


def _common(words: list[list[str]], pick: Callable[[list[str], int], str]) -> int:
    """How many words all lists share at one end, so that each keeps at least one."""
    count = 0
    while all(len(word) > count + 1 for word in words) and len({pick(word, count) for word in words}) == 1:
        count += 1
    return count


def _runs(numbers: list[int]) -> Iterator[str]:
    """Sorted numbers as runs: 0 2 5 6 7 -> "0" "2" "5..7"."""
    begin = 0
    for at in range(1, len(numbers) + 1):
        if at < len(numbers) and numbers[at] == numbers[at - 1] + 1:
            continue
        run = numbers[begin:at]
        if len(run) > 2 or len(run) == len(numbers):
            yield f"{run[0]}..{run[-1]}"
        else:
            yield from map(str, run)
        begin = at


@lru_cache(maxsize=256)
def _glob(pattern: str) -> re.Pattern[str]:
    text = ""
    for part in parse(pattern):
        if isinstance(part, tuple):
            text += "(?:" + "|".join(map(re.escape, part)) + ")"
        else:
            text += "".join(
                {"**": "\0", "*": "[^.]*"}.get(token) or re.escape(token)
                for token in re.split(r"(\*\*|\*)", part) if token
            )  # fmt: skip
    # `**` takes its dot along when it stands for no component at all
    text = re.sub(r"^\0\\\.", r"(?:.*\\.)?", text)
    text = re.sub(r"\\\.\0(?=\\\.|$)", r"(?:\\..*)?", text)
    return re.compile(text.replace("\0", ".*"), re.DOTALL)


def glob_match(pattern: str, name: str) -> bool:
    """Whether a dotted name matches: `*` is any part of one component, `**` any number of components, braces as above.

    The whole name must match; there are no substrings. Raises `ValueError` for a malformed pattern.
    """
    return _glob(pattern).fullmatch(name) is not None
