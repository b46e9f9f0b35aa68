"""Resident memory of this process: what it is, and its largest value since a moment. Linux only.

Pages of mapped files are resident memory too, and count while a loader has them mapped.
"""

from __future__ import annotations

from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""What `clear_refs` takes for "make the peak what it is now": see proc(5)."""


def reset_peak() -> bool:
    """Forget the largest value so far; False where the system does not allow it."""
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def peak_nbytes() -> int:
    """The largest resident memory since `reset_peak` said yes."""
    return _field("VmHWM")


def resident_nbytes() -> int:
    """Resident memory now."""
    return _field("VmRSS")


def available_nbytes() -> int | None:
    """Memory that can be had without swapping, the page cache among it; None where the system does not tell."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    return _value(text, "MemAvailable")


def _field(name: str) -> int:
    return _value(_STATUS.read_text(), name)


def _value(text: str, name: str) -> int:
    """Of a line "VmHWM:   1234 kB", in bytes."""
    line = next(line for line in text.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
