"""Which modules an entry of an ignore list means, by their full names."""

from __future__ import annotations

import fnmatch
import re

from fp8load.rules.base import Context
from fp8load.rules.listed import PLAIN, Candidates
from fp8load.rules.repairs.once import once
from fp8load.rules.repairs.places import stored_unquantized


def meant(context: Context, entry: str) -> list[str]:
    """Unquantized modules that an entry covers in the dialect of its configuration; where it covers nothing there, and
    is a glob or an expression, those that it covers as that."""
    covered = sorted(_candidates(context).covering(entry, context.checkpoint.format))
    if covered or PLAIN.fullmatch(entry):
        return covered
    pattern = _as_pattern(entry)
    return [] if pattern is None else sorted(filter(pattern.match, stored_unquantized(context)))


@once
def _candidates(context: Context) -> Candidates:
    return Candidates(stored_unquantized(context))


def _as_pattern(entry: str) -> re.Pattern[str] | None:
    try:
        return re.compile(entry[3:] if entry.startswith("re:") else fnmatch.translate(entry))
    except re.error:  # what is no expression means nothing
        return None
