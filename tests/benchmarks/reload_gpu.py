"""New weights into a loaded model: bytes a second, and how long nothing may run meanwhile.

python tests/benchmarks/reload_gpu.py OUT.json [GB]. Makes checkpoints as `loading_gpu.py` does (default 10 GB), loads
each and brings in, RUNS times (default 3): the checkpoint itself; all of its tensors, which lie on the device already,
in one mapping; the same as an iterator of decoder layers; and the first layer in BF16, which is quantized. Rates count
the bytes that are handed over. `blocked` is the time of writing, with the device waited for, `longest` the longest of
its pieces: between pieces old and new weights serve side by side. The floor of a copy on the device is measured in the
same run. DEVICE=cpu without a GPU.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from loading_gpu import DeepSeek, Llama, Shape, make

import fp8load
from fp8load.contract import Offer
from fp8load.runtime.dtypes import torch_dtype
from fp8load.runtime.model import LoadedModel
from fp8load.runtime.writer import Writer

FLOOR_NBYTES = 1 << 30


class Clock:
    """Seconds that are spent in writing, with the device waited for."""

    def __init__(self, device: torch.device) -> None:
        self._device, self.pieces = device, list[float]()
        self._written = Writer._write
        Writer._write = self._timed  # type: ignore[method-assign,assignment]

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    @property
    def _timed(self) -> Callable[[Writer, Any, Any], None]:
        def timed(writer: Writer, names: Any, placed: Any) -> None:
            self.wait()
            start = time.perf_counter()
            self._written(writer, names, placed)
            self.wait()
            self.pieces.append(time.perf_counter() - start)

        return timed

    def runs(self, what: Callable[[], object], nbytes: int, count: int) -> dict[str, Any]:
        """Seconds of the run in the middle, its rate, and what of it was writing."""
        found = []
        for _ in range(count + 1):  # the first warms up
            self.pieces.clear()
            self.wait()
            start = time.perf_counter()
            what()
            self.wait()
            found.append((time.perf_counter() - start, sum(self.pieces), max(self.pieces)))
        seconds = statistics.median(run[0] for run in found[1:])
        return {"GB": nbytes / 1e9, "seconds": seconds, "GB/s": nbytes / seconds / 1e9,
                "blocked": statistics.median(run[1] for run in found[1:]),
                "longest": statistics.median(run[2] for run in found[1:])}  # fmt: skip


def stored(model: LoadedModel, device: torch.device) -> dict[str, torch.Tensor]:
    """Every tensor of the checkpoint, as a sender on the same device would have it."""
    found = {}
    for name, meta in model.plan.index.tensors.items():
        data = model.plan.source.read(meta.file, meta.begin, meta.end)
        tensor = torch.frombuffer(bytearray(data), dtype=torch_dtype(meta.dtype)).reshape(meta.shape)
        found[name] = tensor.to(device)
    return found


def by_layer(tensors: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Chunks in the order of the files, one for each decoder layer."""
    chunks: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        head = name.partition(".layers.")[2].partition(".")[0]
        chunks.setdefault(head, {})[name] = tensor
    yield from chunks.values()


def floor(clock: Clock, device: torch.device) -> float:
    """Bytes a second of a copy from memory of the device to memory of the device, bytes counted once."""
    source = torch.ones(FLOOR_NBYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(5):
        clock.wait()
        start = time.perf_counter()
        target.copy_(source)
        clock.wait()
        seconds.append(time.perf_counter() - start)
    return FLOOR_NBYTES / statistics.median(seconds) / 1e9


def measured(folder: Path, device: torch.device, count: int, clock: Clock) -> dict[str, Any]:
    """Each kind of update."""
    model = fp8load.load(folder, device=str(device))
    tensors = stored(model, device)
    nbytes = sum(tensor.nbytes for tensor in tensors.values())
    answer = {
        "a checkpoint": clock.runs(lambda: model.reload(folder), nbytes, count),
        "a mapping, on the device": clock.runs(lambda: model.reload(tensors), nbytes, count),
        "layer by layer, on the device": clock.runs(lambda: model.reload(by_layer(tensors)), nbytes, count),
    }
    wide = {name: tensors[name].to(torch.bfloat16) for name in tensors
            if ".layers.0." in name and tensors[name].dtype == torch.float8_e4m3fn}  # fmt: skip
    accepted = {name: tensor for name, tensor in wide.items()
                if not model.plan.contract.check([Offer(name, tuple(tensor.shape), "BF16")])}  # fmt: skip
    total = sum(tensor.nbytes for tensor in accepted.values())
    answer["a layer in BF16, quantized"] = clock.runs(lambda: model.reload(accepted), total, count)
    return answer


def main(words: Sequence[str]) -> None:
    """Both checkpoints, one at a time."""
    nbytes, count = float(words[1] if len(words) > 1 else 10) * 1e9, int(os.environ.get("RUNS", "3"))
    device = torch.device(os.environ.get("DEVICE", "cuda"))
    clock = Clock(device)
    answer: dict[str, Any] = {"copy on the device, GB/s": floor(clock, device)}
    print(json.dumps(answer))
    shapes: dict[str, Shape] = {"llama-70b-channel": Llama(), "deepseek-v3-block": DeepSeek()}
    for name, shape in shapes.items():
        with tempfile.TemporaryDirectory(prefix="fp8load-reload-") as parent:
            folder = Path(parent) / name
            make(folder, shape.sized(nbytes))
            answer[name] = measured(folder, device, count, clock)
        for what, row in answer[name].items():
            print(f"{name:20}{what:32}" + "".join(f"{key} {value:8.3f}  " for key, value in row.items()), flush=True)
        Path(words[0]).write_text(json.dumps(answer, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
