"""Which modules an entry of an ignore list means, by their full names."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable

from fp8load.rules.base import Context
from fp8load.rules.listed import PLAIN
from fp8load.rules.repairs.places import stored_unquantized


def meant(context: Context, entry: str) -> list[str]:
    """Unquantized modules that an entry covers in the dialect of its configuration; where it covers nothing there, and
    is a glob or an expression, those that it covers as that."""
    modules = sorted(stored_unquantized(context))
    fmt = context.checkpoint.format
    return [module for module in modules if fmt.covers(entry, module)] or list(filter(_as_pattern(entry), modules))


def _as_pattern(entry: str) -> Callable[[str], bool]:
    if PLAIN.fullmatch(entry):
        return lambda _module: False
    try:
        pattern = re.compile(entry[3:] if entry.startswith("re:") else fnmatch.translate(entry))
    except re.error:  # what is no expression means nothing
        return lambda _module: False
    return lambda module: pattern.match(module) is not None
