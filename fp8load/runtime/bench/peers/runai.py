"""Run:ai's model streamer: threads of its own into host memory, from which each tensor is moved to the device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from fp8load.runtime.bench.peers.base import refuses_missing
from fp8load.runtime.bench.places import Places


class RunaiStreamer:
    """With its own settings; RUNAI_STREAMER_CONCURRENCY and RUNAI_STREAMER_MEMORY_LIMIT are heeded, by itself."""

    name = "peer runai streamer"

    def refuses(self, device: torch.device) -> str:
        """That it is not installed."""
        del device
        return refuses_missing("runai_model_streamer", "runai-model-streamer")

    def load(self, paths: Sequence[Path], device: torch.device, places: Places) -> None:
        """All files as one stream, as its documentation does; a tensor is used before the next is asked for."""
        from runai_model_streamer import SafetensorsStreamer

        with SafetensorsStreamer() as streamer:
            streamer.stream_files([str(path) for path in paths])
            for name, tensor in streamer.get_tensors():
                if name in places:
                    places.put(name, tensor.to(device))
