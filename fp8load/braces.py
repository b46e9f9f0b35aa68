r"""The grammar of patterns: text with braces, parsed and expanded.

`{0..61}` is a range of integers (both ends belong to it), `{gate,up}` are alternatives, `{0,2,5..7}` mixes both.
`\` takes the next character as it is; `\uXXXX` and `\UXXXXXXXX` are characters by number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain, product
from math import prod

MAX_NAMES = 1_000_000
"""Names that one pattern may stand for. DeepSeek-V3 has 91,991 tensors; a mistyped range has billions."""

_RANGE = re.compile(r"([0-9]{1,18})\.\.([0-9]{1,18})")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)

Part = str | tuple[str, ...]
"""Literal text, or the choices of one pair of braces."""


def expand(pattern: str, *, limit: int = MAX_NAMES) -> Iterator[str]:
    """Every name that a pattern stands for, the last brace varying fastest.

    Raises `ValueError`, before the first name, for a pattern that is malformed or stands for more than `limit` names.
    """
    parts = parse(pattern, limit)
    num_names = prod(len(part) for part in parts if isinstance(part, tuple))
    if num_names > limit:
        raise ValueError(f"the pattern stands for {num_names:,} names; at most {limit:,} are allowed")
    choices = [(part,) if isinstance(part, str) else part for part in parts]
    return map("".join, product(*choices))


def parse(pattern: str, limit: int = MAX_NAMES) -> list[Part]:
    """Literal text and choices, in turn. Raises `ValueError` for a malformed pattern."""
    parts: list[Part] = []
    literal: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            text, at = _escaped(pattern, at)
            literal.append(text)
        elif char == "{":
            choices, at = _parse_braces(pattern, at, limit)
            parts += ["".join(literal), choices]
            literal = []
        elif char == "}":
            raise ValueError(f"a '}}' without its '{{' at character {at + 1}")
        else:
            literal.append(char)
            at += 1
    return [*parts, "".join(literal)]


def _escaped(pattern: str, at: int) -> tuple[str, int]:
    match = _ESCAPE.match(pattern, at)
    if match is None:
        raise ValueError("a backslash at the end")
    number = match[1] or match[2]
    if number is None:
        return match[3], match.end()
    if int(number, 16) > 0x10FFFF:
        raise ValueError(f"{match[0]} is no character")
    return chr(int(number, 16)), match.end()


def _parse_braces(pattern: str, at: int, limit: int) -> tuple[tuple[str, ...], int]:
    """The choices of the braces that open at `at`, and where the text goes on."""
    begin = at
    items: list[list[str]] = [[]]
    plain = [True]  # whether an item has no escapes: only then may it be a range
    at += 1
    while at < len(pattern) and pattern[at] != "}":
        char = pattern[at]
        if char == "\\":
            text, at = _escaped(pattern, at)
            items[-1].append(text)
            plain[-1] = False
            continue
        if char == "{":
            raise ValueError(f"braces inside braces at character {at + 1}")
        if char == ",":
            items.append([])
            plain.append(True)
        else:
            items[-1].append(char)
        at += 1
    if at == len(pattern):
        raise ValueError(f"the '{{' at character {begin + 1} is not closed")
    texts = ["".join(item) for item in items]
    if texts == [""]:
        raise ValueError(f"empty braces at character {begin + 1}")
    ranges = [_range(text, limit) if is_plain else (text,) for text, is_plain in zip(texts, plain, strict=True)]
    return tuple(chain.from_iterable(ranges)), at + 1


def _range(text: str, limit: int) -> Iterable[str]:
    match = _RANGE.fullmatch(text)
    if match is None:
        if ".." in text:
            raise ValueError(f"{{{text}}} is not a range of integers")
        return (text,)
    first, last = int(match[1]), int(match[2])
    if first > last:
        raise ValueError(f"the range {{{text}}} runs backwards")
    if last - first >= limit:
        raise ValueError(f"the range {{{text}}} has {last - first + 1:,} numbers; at most {limit:,} are allowed")
    width = len(match[1]) if match[1].startswith("0") and len(match[1]) == len(match[2]) else 0
    return (f"{number:0{width}d}" for number in range(first, last + 1))
