"""fastsafetensors: whole files into memory of the device with threads of its own, tensors as views of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from fp8load.runtime.bench.peers.base import refuses_missing
from fp8load.runtime.bench.places import Places


class FastSafetensors:
    """A file at a time, without GPUDirect Storage (which reads past the page cache), as vLLM uses it on one rank."""

    name = "peer fastsafetensors"

    def refuses(self, device: torch.device) -> str:
        """That it is not installed."""
        del device
        return refuses_missing("fastsafetensors", "fastsafetensors")

    def load(self, paths: Sequence[Path], device: torch.device, places: Places) -> None:
        """`SafeTensorsFileLoader` of its documentation."""
        from fastsafetensors import SafeTensorsFileLoader, SingleGroup

        for path in paths:
            loader = SafeTensorsFileLoader(SingleGroup(), str(device), nogds=True)
            try:
                loader.add_filenames({0: [str(path)]})
                buffer = loader.copy_files_to_device()
                try:
                    for name in loader.get_keys():
                        if name in places:
                            places.put(name, buffer.get_tensor(name))
                finally:
                    buffer.close()
            finally:
                loader.close()
