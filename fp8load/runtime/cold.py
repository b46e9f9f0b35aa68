"""Which way files that are not in the page cache are read faster: through it, or past it."""

from __future__ import annotations

import threading


class ColdReads:
    """Reads through the page cache and past it (O_DIRECT) in turn, until each was timed; then the faster one.

    Safe to use from several threads, whose reads are timed while others run: what counts is how fast each way is under
    the load that there is.
    """

    LEAST_NBYTES = 1 << 20
    """Smaller reads show and gain nothing."""

    TRIALS = 8
    """Reads of either kind that are timed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = 0
        self._timed = {True: 0, False: 0}
        self._nbytes = {True: 0, False: 0}
        self._seconds = {True: 0.0, False: 0.0}

    def direct(self) -> bool:
        """Whether the next read goes past the page cache."""
        with self._lock:
            if min(self._timed.values()) < self.TRIALS:
                self._asked += 1
                return self._asked % 2 == 1
            return self._rate(direct=True) > self._rate(direct=False)

    def took(self, *, direct: bool, nbytes: int, seconds: float) -> None:
        """Note how long a read took."""
        with self._lock:
            if self._timed[direct] < self.TRIALS:
                self._timed[direct] += 1
                self._nbytes[direct] += nbytes
                self._seconds[direct] += seconds

    def _rate(self, *, direct: bool) -> float:
        return self._nbytes[direct] / max(self._seconds[direct], 1e-9)
