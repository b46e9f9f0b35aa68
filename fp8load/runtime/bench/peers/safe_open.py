"""`safe_open` and a tensor at a time, moved to the device by itself: vLLM's and SGLang's default."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from fp8load.runtime.bench.places import Places


class SafeOpen:
    """What engines do: `safetensors_weights_iterator` of vLLM (model_loader/weight_utils.py), then `.to(device)`."""

    name = "peer safe_open"

    def refuses(self, device: torch.device) -> str:
        """Nothing: safetensors is a requirement of this package."""
        del device
        return ""

    def load(self, paths: Sequence[Path], device: torch.device, places: Places) -> None:
        """Only tensors of which the rank keeps something."""
        for path in paths:
            with safe_open(path, framework="pt", device="cpu") as file:
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    if name in places:
                        places.put(name, file.get_tensor(name).to(device))
