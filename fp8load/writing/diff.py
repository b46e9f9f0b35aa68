"""Unified diffs of long files: lines that stand once in both are matched first, so that 92,000 lines take no minute.

`difflib` alone is quadratic in the number of changes, and an index has a line for each tensor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import Match, SequenceMatcher

_CONTEXT = 3


def unified(before: str, after: str, old_name: str, new_name: str) -> Iterator[str]:
    """The lines of a unified diff; none where the texts have the same lines."""
    old, new = before.splitlines(), after.splitlines()
    is_first = True
    for group in _Lines(old, new).get_grouped_opcodes(_CONTEXT):
        if is_first:
            yield from (f"--- {old_name}", f"+++ {new_name}")
            is_first = False
        yield f"@@ -{_range(group[0][1], group[-1][2])} +{_range(group[0][3], group[-1][4])} @@"
        for tag, old_begin, old_end, new_begin, new_end in group:
            if tag == "equal":
                yield from (f" {line}" for line in old[old_begin:old_end])
                continue
            yield from (f"-{line}" for line in old[old_begin:old_end])
            yield from (f"+{line}" for line in new[new_begin:new_end])


def _range(begin: int, end: int) -> str:
    """Lines as the format counts them: from 1, and the line before where there are none."""
    length = end - begin
    return str(begin + 1) if length == 1 else f"{begin + 1 if length else begin},{length}"


class _Lines(SequenceMatcher[str]):
    """Matches between lines that are the only ones of their text, and what `difflib` finds between those."""

    def __init__(self, old: Sequence[str], new: Sequence[str]) -> None:
        super().__init__(None, old, new, autojunk=False)
        self._blocks = _merged(_matches(old, new), len(old), len(new))

    def get_matching_blocks(self) -> list[Match]:
        """Maximal runs of equal lines, and the end of both as the last."""
        return self._blocks


def _matches(old: Sequence[str], new: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """(line of the old file, of the new one, how many) in order."""
    at_old, at_new = 0, 0
    for anchor_old, anchor_new in [*_anchors(old, new), (len(old), len(new))]:
        between = old[at_old:anchor_old], new[at_new:anchor_new]
        if all(between):
            for block in SequenceMatcher(None, *between, autojunk=False).get_matching_blocks():
                yield at_old + block.a, at_new + block.b, block.size
        if anchor_old < len(old):
            yield anchor_old, anchor_new, 1
        at_old, at_new = anchor_old + 1, anchor_new + 1


def _anchors(old: Sequence[str], new: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Lines that stand once in both files, as far as they stand in the same order."""
    once_old, once_new = Counter(old), Counter(new)
    places = {line: at for at, line in enumerate(new) if once_new[line] == 1}
    last = -1
    for at, line in enumerate(old):
        place = places.get(line, -1)
        if place > last and once_old[line] == 1:
            yield at, place
            last = place


def _merged(matches: Iterator[tuple[int, int, int]], num_old: int, num_new: int) -> list[Match]:
    """Runs that touch become one."""
    blocks: list[Match] = []
    for a, b, size in matches:
        last = blocks[-1] if blocks else Match(-1, -1, 0)
        if size and (last.a + last.size, last.b + last.size) == (a, b):
            blocks[-1] = Match(last.a, last.b, last.size + size)
        elif size:
            blocks.append(Match(a, b, size))
    return [*blocks, Match(num_old, num_new, 0)]
