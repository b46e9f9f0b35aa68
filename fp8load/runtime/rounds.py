"""Rounds in which the ranks of a host hand each other what each of them read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Protocol

import torch

from fp8load.fusion import FusionPlan
from fp8load.runtime.execute import num_threads
from fp8load.runtime.files import Files
from fp8load.runtime.lanes import Slot, place
from fp8load.runtime.pinned import BUFFER_NBYTES, Filled, Filler, Wait
from fp8load.runtime.readers import Readers
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


def nbytes_of(found: Iterable[Segment]) -> int:
    """Bytes that parameters get."""
    return sum(segment.nbytes for segment in found)


class Rounds:
    """Windows that threads read ahead, gathered one round after the other, and cut into their places.

    Memory: the pinned buffers of a lane; on the device, for each of one or two rounds, a window and one of each rank.
    """

    def __init__(self, plan: FusionPlan, device: torch.device, host: Ranks) -> None:
        self._plan, self._device, self._host = plan, device, host
        count = 2 if 2 * (1 + host.size) * BUFFER_NBYTES <= ROUNDS_NBYTES else 1
        self._slots = [_Slot(device, host.size) for _ in range(count)]

    def run(
        self,
        planned: Sequence[tuple[Window | None, ...]],
        within: Mapping[Window, tuple[Segment, ...]],
        failed: Exception | None,
        advance: Callable[[int], None] | None,
    ) -> Exception | None:
        """Every round, also after this rank has failed; the error, if there is one."""
        own = [each[self._host.rank] for each in planned]
        threads = num_threads(self._plan.source, self._device)
        done = 0
        try:
            with Files(self._plan, past_cache=True) as files:
                ahead: Filler[Window] = Filler(files, self._device)
                mine = [] if failed else [window for window in own if window is not None]
                arrived: dict[Window, Filled[Window]] = {}
                with closing(Readers(mine, ahead).run(threads)) as arriving:
                    for at, (each, window) in enumerate(zip(planned, own, strict=True)):
                        read: Filled[Window] | None = None
                        if window is not None and failed is None:
                            try:
                                read = _wait_for(window, arrived, arriving)
                            except Exception as error:  # noqa: BLE001 - told to the others after the last round
                                failed = error
                        slot = self._slots[at % len(self._slots)]
                        errors: list[Exception] = []
                        wait = self._round(slot, each, read, within if failed is None else {}, errors)
                        if read is not None:
                            ahead.give(read, wait)
                        failed = failed or next(iter(errors), None)
                        done += sum(nbytes_of(within.get(window, ())) for window in each if window is not None)
                        if advance is not None:
                            advance(done)
        finally:
            for slot in self._slots:
                slot.stream.finish()
        return failed

    def _round(
        self,
        slot: _Slot,
        each: Sequence[Window | None],
        read: Filled[Window] | None,
        within: Mapping[Window, tuple[Segment, ...]],
        errors: list[Exception],
    ) -> Wait:
        """Queue one round; what is returned waits for it. Pieces that cannot be placed are `errors`: rounds go on."""
        longest = max(window.nbytes for window in each if window is not None)
        gathered = slot.every[: self._host.size * longest].view(self._host.size, longest)

        def work() -> None:
            if read is not None:
                data = read.data
                slot.staging[: len(data)].copy_(data, non_blocking=True)
            self._host.gather(slot.staging[:longest], gathered)
            for window, content in zip(each, gathered, strict=True):
                if window is not None and window in within:
                    try:
                        place(within[window], window.begin, content)
                    except Exception as error:  # noqa: BLE001 - told to the others after the last round
                        errors.append(error)

        return slot.stream.queue(work)


def _wait_for(
    window: Window, arrived: dict[Window, Filled[Window]], arriving: Iterator[Filled[Window]]
) -> Filled[Window]:
    """The window of a round: threads may finish later ones first. Raises what reading raised."""
    while window not in arrived:
        filled = next(arriving)
        arrived[filled.what] = filled
    return arrived.pop(window)


class _Slot(Slot):
    """And memory for the windows of all ranks in a round, one after the other."""

    def __init__(self, device: torch.device, num_ranks: int) -> None:
        super().__init__(device)
        self.every = torch.empty(num_ranks * BUFFER_NBYTES, dtype=torch.uint8, device=device)
