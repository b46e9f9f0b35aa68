"""What a peer is: another loader of safetensors files, which hands out tensors that are then put where they belong."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import torch

from fp8load.runtime.bench.places import Places


class Peer(Protocol):
    """A way to load files that is not ours. It may read more than a rank keeps, and ends with the same parameters."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def refuses(self, device: torch.device) -> str:
        """Why it cannot load onto this device; nothing where it can."""
        ...

    def load(self, paths: Sequence[Path], device: torch.device, places: Places) -> None:
        """Load every tensor that is in `places`, and put it there."""
        ...


def refuses_missing(package: str, distribution: str) -> str:
    """Why a package cannot be used: it is not installed."""
    return "" if find_spec(package) is not None else f"not installed: pip install {distribution}"
