"""New values swapped with what is in their places, so that all of it can be taken back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

SCRATCH_NBYTES = 16 << 20
"""What is swapped at once, in bytes, unless one row is larger."""


class Placed(NamedTuple):
    """A value for a part of a parameter, on its device and in its dtype.

    `slot` of the parameter that it fills; all of them where it is empty. `place` shares the parameter's memory.
    `old` is where what is there is kept; without it that is `value`, in memory that nothing else uses.
    """

    param: str
    slot: str
    place: torch.Tensor
    value: torch.Tensor
    old: torch.Tensor | None = None


class _Step(NamedTuple):
    """Some rows of one of them."""

    place: torch.Tensor
    value: torch.Tensor
    old: torch.Tensor | None


class Exchange:
    """Puts values in their places. Making it allocates all that it takes; swapping and taking back allocate nothing."""

    def __init__(self, placed: Iterable[Placed]) -> None:
        self._steps = [step for one in placed for step in _by_rows(one)]
        largest: dict[torch.device, int] = {}
        for place, _, old in self._steps:
            if old is None:
                largest[place.device] = max(largest.get(place.device, 0), place.nbytes)
        self._scratch = {
            device: torch.empty(nbytes, dtype=torch.uint8, device=device) for device, nbytes in largest.items()
        }
        self._num_done = 0

    def swap(self) -> None:
        """Every value into its place, and what was there into `old`, or into the value."""
        for place, value, kept in self._steps:
            old = kept
            if old is None:
                old = self._scratch[place.device][: place.nbytes].view(place.dtype).view(place.shape)
            old.copy_(place)
            try:
                place.copy_(value)
                if kept is None:
                    value.copy_(old)
                self._num_done += 1
            except BaseException:
                place.copy_(old)
                raise

    def take_back(self) -> None:
        """What was there into the places again, as far as `swap` came; then the memory is given back."""
        for place, value, old in self._steps[: self._num_done]:
            place.copy_(value if old is None else old)
        self._steps.clear()
        self._scratch.clear()
        self._num_done = 0


def _by_rows(one: Placed) -> Iterator[_Step]:
    """A value in pieces of at most `SCRATCH_NBYTES`, or of one row."""
    place, value, old = one.place, one.value, one.old
    if not place.numel():
        return
    if not place.dim():
        place, value, old = place.unsqueeze(0), value.unsqueeze(0), None if old is None else old.unsqueeze(0)
    step = max(1, SCRATCH_NBYTES // (place.nbytes // len(place)))
    for at in range(0, len(place), step):
        rows = slice(at, at + step)
        yield _Step(place[rows], value[rows], None if old is None else old[rows])
