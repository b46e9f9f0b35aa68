"""New values swapped with what is in their places, so that all of it can be taken back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

SCRATCH_NBYTES = 16 << 20
"""What is swapped at once, in bytes, unless one row is larger."""


class Placed(NamedTuple):
    """A value for a part of a parameter, on its device and in its dtype, in memory that nothing else uses.

    `slot` of the parameter that it fills; all of them where it is empty. `place` shares the parameter's memory.
    """

    param: str
    slot: str
    place: torch.Tensor
    value: torch.Tensor


class Exchange:
    """Swaps values with places. Making it allocates all that it takes; swapping and taking back allocate nothing."""

    def __init__(self, placed: Iterable[Placed]) -> None:
        self._steps = [step for one in placed for step in _by_rows(one.place, one.value)]
        largest: dict[torch.device, int] = {}
        for place, _ in self._steps:
            largest[place.device] = max(largest.get(place.device, 0), place.nbytes)
        self._scratch = {
            device: torch.empty(nbytes, dtype=torch.uint8, device=device) for device, nbytes in largest.items()
        }
        self._num_done = 0

    def swap(self) -> None:
        """Every value into its place, and what was there into the value."""
        for place, value in self._steps:
            old = self._scratch[place.device][: place.nbytes].view(place.dtype).view(place.shape)
            old.copy_(place)
            try:
                place.copy_(value)
                value.copy_(old)
                self._num_done += 1
            except BaseException:
                place.copy_(old)
                raise

    def take_back(self) -> None:
        """What was there into the places again, as far as `swap` came; then the memory is given back."""
        for place, old in self._steps[: self._num_done]:
            place.copy_(old)
        self._steps.clear()
        self._scratch.clear()
        self._num_done = 0


def _by_rows(place: torch.Tensor, value: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The pair in pieces of at most `SCRATCH_NBYTES`, or of one row."""
    if not place.numel():
        return
    if not place.dim():
        place, value = place.unsqueeze(0), value.unsqueeze(0)
    step = max(1, SCRATCH_NBYTES // (place.nbytes // len(place)))
    yield from ((place[at : at + step], value[at : at + step]) for at in range(0, len(place), step))
