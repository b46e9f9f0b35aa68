"""A line of progress: what is done, how much of it, how fast, and how long it still takes."""

from __future__ import annotations

import shutil
import time
from typing import TextIO

EVERY_SECONDS = 0.1
_LENGTH = 20


class Bar:
    """Draws on a stream, or nowhere where that is None. Spaces wipe what a longer line leaves: NO_COLOR may hold."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._what, self._width = "", 0
        self._start = self._drawn = 0.0
        self._done = 0

    def say(self, what: str, done: int, total: int) -> None:
        """`done` of `total` bytes of something; when there is less than before, it began again."""
        if self._stream is None:
            return
        now = time.monotonic()
        if what != self._what or done < self._done:
            self._what, self._start = what, now
        self._done = done
        if now - self._drawn < EVERY_SECONDS:
            return
        self._drawn = now
        self._draw(progress_line(what, done, total, now - self._start, shutil.get_terminal_size().columns - 1))

    def wipe(self) -> None:
        """Leave an empty line."""
        if self._width:
            self._draw("")
            self._draw("")

    def _draw(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write("\r" + text.ljust(self._width) + ("" if text else "\r"))
            self._stream.flush()
            self._width = len(text)


def progress_line(what: str, done: int, total: int, seconds: float, width: int) -> str:
    """As much of it as `width` columns hold: the drawing goes first, then what is left, then the rate."""
    amount = f"{done / 1e9:.2f} of {total / 1e9:.2f} GB"
    parts = [what, amount]
    if seconds > 0 and done:
        rate = done / seconds
        parts += [f"{rate / 1e9:.1f} GB/s", f"{max(total - done, 0) / rate:.0f} s left"]
    filled = _LENGTH * done // total if total else 0
    drawn = [what, f"[{'#' * filled}{'.' * (_LENGTH - filled)}]", *parts[1:]]
    candidates = [drawn, *(parts[:count] for count in range(len(parts), 0, -1))]
    lines = ("  ".join(each) for each in candidates)
    return next((line for line in lines if len(line) <= width), what[: max(width, 0)])
