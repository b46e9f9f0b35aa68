"""Questions to a device, collected: it is waited for once, however many there are."""

from __future__ import annotations

from collections.abc import Callable

import torch


class Verdicts:
    """Answers that devices compute while more is asked. Waiting for each by itself costs a round trip each.

    `ask` takes a bool tensor of one element, True where all is well, and what raises the error where it is not.
    """

    def __init__(self) -> None:
        self._asked: list[tuple[torch.Tensor, Callable[[], None]]] = []

    def ask(self, is_good: torch.Tensor, refuse: Callable[[], None]) -> None:
        """One more question; nothing is waited for."""
        self._asked.append((is_good.detach().reshape(()), refuse))

    def refuse(self) -> None:
        """Wait for the answers and raise the error of the first, in the order of asking, that is bad."""
        for is_good, (_, refuse) in zip(answers([one for one, _ in self._asked]), self._asked, strict=True):
            if not is_good:
                refuse()
        self._asked.clear()


def answers(verdicts: list[torch.Tensor]) -> list[bool]:
    """Bool tensors of one element, on any devices, as bools. Each device is waited for once."""
    found = [False] * len(verdicts)
    by_device: dict[torch.device, list[int]] = {}
    for at, verdict in enumerate(verdicts):
        by_device.setdefault(verdict.device, []).append(at)
    for places in by_device.values():
        for at, answer in zip(places, torch.stack([verdicts[at] for at in places]).tolist(), strict=True):
            found[at] = answer
    return found
