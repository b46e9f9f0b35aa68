"""Threads that take batches one after the other, each in a lane of its own, until there are none or one fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from queue import SimpleQueue

from fp8load.runtime.batches import Batch
from fp8load.runtime.files import Files
from fp8load.runtime.lanes import Lane


class Readers:
    """Threads with a lane each, which is made in its thread.

    A batch costs a lock and an entry of a queue, so that 16 threads do not wait for Python more than for the disk.
    """

    def __init__(self, work: Iterable[Batch], make_lane: Callable[[], Lane], files: Files) -> None:
        self._work, self._make_lane, self._files = iter(work), make_lane, files
        self._taking, self._stop = threading.Lock(), threading.Event()
        self._said: SimpleQueue[int | BaseException | None] = SimpleQueue()

    def run(self, count: int) -> Generator[int, None, None]:
        """The bytes that are kept of each batch that was read. When this ends, however it does, every thread has ended
        and every byte that was read is in its place; then the error of a thread is raised, the first of several."""
        threads = [threading.Thread(target=self._read, name=f"fp8load-read-{at}") for at in range(count)]
        failed: BaseException | None = None
        try:
            for thread in threads:
                thread.start()
            running = count
            while running:
                said = self._said.get()
                if said is None:
                    running -= 1
                elif isinstance(said, BaseException):
                    failed = failed or said
                    self._stop.set()
                else:
                    yield said
        finally:
            self._stop.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        if failed is not None:
            raise failed

    def _read(self) -> None:
        lane: Lane | None = None
        try:
            for batch in iter(self._next, None):
                lane = lane or self._make_lane()
                lane.run(self._files, batch)
                self._said.put(sum(segment.nbytes for segment in batch.segments))
        except BaseException as error:  # noqa: BLE001 - raised where `run` is called
            self._said.put(error)
        finally:
            self._finish(lane)
            self._said.put(None)

    def _next(self) -> Batch | None:
        """The next batch, which is made now; None when there is no more, or no more is wanted."""
        with self._taking:
            return None if self._stop.is_set() else next(self._work, None)

    def _finish(self, lane: Lane | None) -> None:
        """Also after an error: a device must not write into memory that was given back."""
        try:
            if lane is not None:
                lane.finish()
        except BaseException as error:  # noqa: BLE001 - as above
            self._said.put(error)
