"""Numbers for people. JSON never uses these."""

from __future__ import annotations

from fp8load.units import size

__all__ = ["many", "plural", "share", "size"]

_COUNTS = ("", "K", "M", "B", "T")


def many(number: int) -> str:
    """A large number with a decimal unit: 999, 918.8 K, 684.5 B."""
    if number < 1000:
        return str(number)
    value, unit = float(number), 0
    while value >= 999.95 and unit < len(_COUNTS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.1f} {_COUNTS[unit]}"


def plural(number: int, noun: str, nouns: str = "") -> str:
    """1 tensor, 2 tensors, 1,024 tensors."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def share(part: int, whole: int) -> str:
    """A percentage with one decimal."""
    return f"{100 * part / whole:.1f} %" if whole else "-"
