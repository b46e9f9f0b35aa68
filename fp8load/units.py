"""Sizes for people: representations and the command line. Reports hold integers."""

from __future__ import annotations

_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")


def size(nbytes: int) -> str:
    """Bytes with a binary unit: 512 B, 1.5 KiB, 641.3 GiB."""
    if nbytes < 1024:
        return f"{nbytes} B"
    value, unit = float(nbytes), 0
    while value >= 1023.95 and unit < len(_BYTES) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {_BYTES[unit]}"
