"""Pinned buffers, which are filled from files and which a device copies out of."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

import torch

from fp8load.runtime.segments import PAGE


class Mark(Protocol):
    """What a device was told until now, as `torch.cuda.Event` has it."""

    def query(self) -> bool:
        """Whether it is done."""
        ...

    def synchronize(self) -> None:
        """Wait until it is."""
        ...


class Past:
    """Of what was done at once."""

    def query(self) -> bool:
        """It is."""
        return True

    def synchronize(self) -> None:
        """Nothing to wait for."""


class Buffer:
    """Memory for reads of up to `nbytes`, with a page on either side, pinned where a GPU copies from it by itself.

    It is had when it is first needed: pinning takes time, in which others read. `mark` is the last copy out of it.
    """

    __slots__ = ("_device", "_memory", "_nbytes", "mark")

    def __init__(self, device: torch.device, nbytes: int) -> None:
        self._device, self._nbytes = device, nbytes
        self._memory: torch.Tensor | None = None
        self.mark: Mark = Past()

    @property
    def memory(self) -> torch.Tensor:
        """uint8 [n], whole pages."""
        if self._memory is None:
            pinned = self._device.type == "cuda"  # such memory begins at a page, and its size is a power of two
            size = (-(-self._nbytes // PAGE) + 2) * PAGE
            memory = torch.empty(size if pinned else size + PAGE, dtype=torch.uint8, device="cpu", pin_memory=pinned)
            begin = -memory.data_ptr() % PAGE
            self._memory = memory[begin : begin + size]
        return self._memory


class Range(Protocol):
    """Bytes of a file."""

    @property
    def file(self) -> str:
        """Its name."""
        ...

    @property
    def begin(self) -> int:
        """The first byte."""
        ...

    @property
    def end(self) -> int:
        """The first byte after them."""
        ...


What = TypeVar("What", bound=Range)


class Filled(Generic[What]):
    """A range whose bytes are in a buffer: at the same place within a page as in the file, as reads past the page cache
    want it."""

    __slots__ = ("buffer", "what")

    def __init__(self, what: What, buffer: Buffer) -> None:
        self.what, self.buffer = what, buffer

    @property
    def data(self) -> torch.Tensor:
        """uint8 [n]."""
        begin = self.what.begin % PAGE
        return self.buffer.memory[begin : begin + self.what.end - self.what.begin]
