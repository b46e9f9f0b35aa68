"""How long a call takes: Triton's `do_bench` on CUDA, torch's own timer elsewhere. Medians, in microseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Run = Callable[[], Any]

WARMUP_MS, REPEAT_MS = 10, 40
CPU_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Clock:
    """Times calls on a device. `graph`: replays of a captured CUDA graph, so that launches cost nothing."""

    device: torch.device
    graph: bool = False

    def __post_init__(self) -> None:
        if self.graph and self.device.type != "cuda":
            raise ValueError(f"graphs are captured on CUDA, not on {self.device}")

    @property
    def method(self) -> str:
        """How it is measured, for reports."""
        if self.device.type != "cuda":
            return f"median of torch.utils.benchmark, {torch.get_num_threads()} threads, caches warm"
        return "median of triton.testing.do_bench, L2 flushed" + (", replays of a CUDA graph" if self.graph else "")

    def us(self, run: Run) -> float:
        """Median microseconds of a call. Raises what the call raises, or what keeps it from being captured."""
        if self.device.type != "cuda":
            return _on_cpu(run)
        from triton.testing import do_bench

        timed = captured(run) if self.graph else run
        return float(do_bench(timed, warmup=WARMUP_MS, rep=REPEAT_MS, return_mode="median")) * 1e3


def captured(run: Run) -> Run:
    """The call as a CUDA graph; it runs three times before, for what is compiled or allocated when it first comes."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch does not annotate it
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def _on_cpu(run: Run) -> float:
    from torch.utils.benchmark import Timer

    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=CPU_SECONDS).median) * 1e6
