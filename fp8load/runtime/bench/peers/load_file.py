"""`safetensors.torch.load_file`: a shard at a time onto the device, then into fused parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from fp8load.runtime.bench.places import Places


class LoadFile:
    """What scripts and small engines do."""

    name = "peer safetensors load_file"

    def refuses(self, device: torch.device) -> str:
        """Nothing: safetensors is a requirement of this package."""
        del device
        return ""

    def load(self, paths: Sequence[Path], device: torch.device, places: Places) -> None:
        """Whole files, also where the rank keeps a part of each tensor."""
        for path in paths:
            for name, tensor in load_file(path, device=str(device)).items():
                if name in places:
                    places.put(name, tensor)
