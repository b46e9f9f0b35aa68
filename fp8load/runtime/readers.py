"""Threads that take pieces of work one after the other, until there are none or one fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar

Work = TypeVar("Work")
Done = TypeVar("Done")
Work_contra = TypeVar("Work_contra", contravariant=True)
Done_co = TypeVar("Done_co", covariant=True)


class Reading(Protocol[Work_contra, Done_co]):
    """What reader threads do; safe to use from several."""

    def read(self, take: Callable[[], Work_contra | None]) -> Done_co | None:
        """Take a piece of work, read it, and return what the one thread goes on with; None when there is no more, or
        after `stop`."""
        ...

    def stop(self) -> None:
        """Wake threads that wait in `read`: nothing more is wanted."""
        ...


class Readers(Generic[Work, Done]):
    """Threads that share a list of work, which is made while they take it.

    A piece of work costs a thread a lock and an entry of a queue, so that it does not wait for Python more than for
    bytes.
    """

    def __init__(self, work: Iterable[Work], reading: Reading[Work, Done]) -> None:
        self._work, self._reading = iter(work), reading
        self._taking, self._stop = threading.Lock(), threading.Event()
        self._said: SimpleQueue[_Read[Done] | BaseException | None] = SimpleQueue()

    def run(self, count: int) -> Generator[Done, None, None]:
        """What each thread read, as it comes. When this ends, however it does, every thread has ended; then the error
        of a thread is raised, the first of several."""
        threads = [threading.Thread(target=self._run, name=f"fp8load-read-{at}") for at in range(count)]
        failed: BaseException | None = None
        try:
            for thread in threads:
                thread.start()
            running = count
            while running:
                said = self._said.get()
                if said is None:
                    running -= 1
                elif isinstance(said, _Read):
                    yield said.what
                else:
                    failed = failed or said
                    self._end()
        finally:
            self._end()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        if failed is not None:
            raise failed

    def _end(self) -> None:
        self._stop.set()
        self._reading.stop()

    def _run(self) -> None:
        try:
            while (what := self._reading.read(self._take)) is not None:
                self._said.put(_Read(what))
        except BaseException as error:  # noqa: BLE001 - raised where `run` is called
            self._said.put(error)
        finally:
            self._said.put(None)

    def _take(self) -> Work | None:
        """The next piece, which is made now; None when there is no more, or no more is wanted."""
        with self._taking:
            return None if self._stop.is_set() else next(self._work, None)


class _Read(Generic[Done]):
    """What was read, so that no value of it is taken for an error or for the end."""

    __slots__ = ("what",)

    def __init__(self, what: Done) -> None:
        self.what = what
