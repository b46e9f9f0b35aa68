"""Which backend runs the layers of a plan on a device: a part of the report of `plan`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelReport:
    """Layers of one scheme and shape, and the backend that runs them.

    shape    of the weight on the rank: [N, K], or [experts, N, K]
    layers   their names, folded
    count    how many layers these are; the experts of one are one
    """

    backend: str
    scheme: str
    shape: tuple[int, ...]
    layers: tuple[str, ...]
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalReport:
    """Why a backend that comes before the chosen one does not run `count` layers."""

    backend: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReport:
    """Whether the parameters of the rank fit into a GPU of `gb` * 10**9 bytes; caches and activations come on top."""

    gb: int
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelsReport:
    """The choice of backends for one rank.

    device      what was asked about ("sm90"), and what this is
    forced      the backends that were asked for, with commas between them
    memory      the sizes of memory that the device comes in, smallest first; empty where that is not known
    """

    device: str
    title: str
    forced: str | None
    chosen: tuple[KernelReport, ...]
    refused: tuple[RefusalReport, ...]
    memory: tuple[MemoryReport, ...]
