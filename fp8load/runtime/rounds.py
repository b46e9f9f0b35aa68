"""Rounds in which the ranks of a host hand each other what each of them read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Protocol

import torch

from fp8load.fusion import FusionPlan
from fp8load.runtime.ahead import read_ahead
from fp8load.runtime.execute import num_threads
from fp8load.runtime.files import Files
from fp8load.runtime.lanes import Slot, place
from fp8load.runtime.pinned import Filled, Mark, Past
from fp8load.runtime.schedule import Window
from fp8load.runtime.segments import Segment

ROUNDS_NBYTES = 256 << 20
"""Of the device: rounds are queued two at a time where this is enough for both."""


class Ranks(Protocol):
    """The ranks of a host, of which this process is one."""

    rank: int
    size: int

    def gather(self, mine: torch.Tensor, all_of_them: torch.Tensor) -> None:
        """Bytes [n] of every rank into [ranks, n]."""
        ...

    def wait_for(self, mark: Mark) -> None:
        """Wait for the device, unless another rank has gone."""
        ...

    def meet(self) -> None:
        """Wait until every rank has come here."""
        ...

    def leave(self) -> None:
        """Nothing is exchanged any more; what the device waits for, it waits for no longer."""
        ...


class _Guarded:
    """What a device was told, and does only when other ranks do their part."""

    def __init__(self, mark: Mark, host: Ranks) -> None:
        self._mark, self._host = mark, host
        self.query = mark.query

    def synchronize(self) -> None:
        """Wait, unless one of them has gone."""
        self._host.wait_for(self._mark)


def nbytes_of(found: Iterable[Segment]) -> int:
    """Bytes that parameters get."""
    return sum(segment.nbytes for segment in found)


class Rounds:
    """Windows that threads read ahead, gathered one round after the other, and cut into their places.

    Memory: the pinned buffers of a lane; on the device, for each of one or two rounds, a window and one of each rank.
    """

    def __init__(self, plan: FusionPlan, device: torch.device, host: Ranks, longest: int) -> None:
        self._plan, self._device, self._host = plan, device, host
        count = 2 if 2 * (1 + host.size) * longest <= ROUNDS_NBYTES else 1
        self._slots = [_Slot(device, host.size, longest) for _ in range(count)]

    def run(
        self,
        planned: Sequence[tuple[Window | None, ...]],
        within: Mapping[Window, tuple[Segment, ...]],
        advance: Callable[[int], None] | None,
    ) -> None:
        """Every round, also after this rank has failed; then its error is raised. What ends them before is told to
        nobody: the others are within a round."""
        errors: list[Exception] = []
        try:
            with _leaving(self._host):
                self._run(planned, within, advance, errors)
                for slot in self._slots:
                    slot.last.synchronize()
                self._host.meet()
        finally:
            for slot in self._slots:
                slot.finish()
        if errors:
            raise errors[0]

    def _run(
        self,
        planned: Sequence[tuple[Window | None, ...]],
        within: Mapping[Window, tuple[Segment, ...]],
        advance: Callable[[int], None] | None,
        errors: list[Exception],
    ) -> None:
        own = [each[self._host.rank] for each in planned]
        threads = num_threads(self._plan.source, self._device)
        done = 0
        with Files(self._plan, past_cache=True) as files:
            ahead = read_ahead(files, [window for window in own if window is not None], self._device, threads)
            arrived: dict[Window, Filled[Window]] = {}
            with closing(ahead.run()) as arriving, _leaving(self._host):  # before threads are waited for
                for at, (each, window) in enumerate(zip(planned, own, strict=True)):
                    read: Filled[Window] | None = None
                    if window is not None and not errors:
                        with _told_later(errors):
                            read = _wait_for(window, arrived, arriving)
                    slot = self._slots[at % len(self._slots)]
                    mark = _Guarded(self._round(slot, each, read, {} if errors else within, errors), self._host)
                    if read is not None:
                        ahead.give(read, mark)
                    slot.last = mark
                    done += sum(nbytes_of(within.get(window, ())) for window in each if window is not None)
                    if advance is not None and not errors:
                        with _told_later(errors):
                            advance(done)

    def _round(
        self,
        slot: _Slot,
        each: Sequence[Window | None],
        read: Filled[Window] | None,
        within: Mapping[Window, tuple[Segment, ...]],
        errors: list[Exception],
    ) -> Mark:
        """Queue one round; what is returned waits for it. Pieces that cannot be placed are `errors`: rounds go on."""
        longest = max(window.nbytes for window in each if window is not None)

        def work() -> None:
            mine, gathered = slot.staging(longest), slot.every(longest)
            if read is not None:
                mine[: read.what.nbytes].copy_(read.data, non_blocking=True)
            self._host.gather(mine, gathered)
            for window, content in zip(each, gathered, strict=True):
                if window is not None and window in within:
                    with _told_later(errors):
                        place(within[window], window.begin, content)

        return slot.queue(work)


@contextmanager
def _leaving(host: Ranks) -> Iterator[None]:
    """What breaks off, breaks off for good: the device, and threads that wait for it, wait for no other rank."""
    try:
        yield
    except BaseException:
        host.leave()
        raise


@contextmanager
def _told_later(errors: list[Exception]) -> Iterator[None]:
    """An error is kept until the last round, which others wait for."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - raised by `Rounds.run`
        errors.append(error)


def _wait_for(
    window: Window, arrived: dict[Window, Filled[Window]], arriving: Iterator[Filled[Window]]
) -> Filled[Window]:
    """The window of a round: threads may finish later ones first. Raises what reading raised."""
    while window not in arrived:
        filled = next(arriving)
        arrived[filled.what] = filled
    return arrived.pop(window)


class _Slot(Slot):
    """With memory of the device for the windows of all ranks, one after the other; had before the first round, since a
    rank that lacks it can take part in none."""

    def __init__(self, device: torch.device, num_ranks: int, longest: int) -> None:
        super().__init__(device)
        self.last: Mark = Past()
        self._num_ranks = num_ranks
        self._staging = torch.empty(longest, dtype=torch.uint8, device=device)
        self._every = torch.empty(num_ranks * longest, dtype=torch.uint8, device=device)

    def every(self, nbytes: int) -> torch.Tensor:
        """uint8 [ranks, nbytes], which the next round takes again. For the stream."""
        return self._every[: self._num_ranks * nbytes].view(self._num_ranks, nbytes)
