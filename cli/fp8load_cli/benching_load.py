"""`bench load` from its options to its report: whose plan, which loaders, and what was measured."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fp8load.errors import ExitCode, Problem, SourceError, UsageError
from fp8load_cli.bar import Bar
from fp8load_cli.benching import device_to_measure, version_of
from fp8load_cli.opening import opened
from fp8load_cli.output import progress_stream, say
from fp8load_cli.reports import BenchLoadReport, LoadLimit, LoadRefusal, LoadRow
from fp8load_cli.run import Run

if TYPE_CHECKING:
    import torch

    from fp8load.checkpoint import Checkpoint
    from fp8load.runtime.bench.measure import LoadBench, Measured

PACKAGES = ("safetensors", "fastsafetensors", "runai-model-streamer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the options ask for, checked."""

    device: torch.device
    tp: int
    rank: int
    runs: int
    peers: bool
    quantize: str | None = None

    @staticmethod
    def of(*, device: str | None, tp: int, rank: int, runs: int, peers: bool, quantize: str | None = None) -> Question:
        """The question. Raises `UsageError` for a rank or device that there is not, `BackendError` without torch."""
        if rank >= tp:
            raise UsageError(Problem(code="USE010", message="there is no such rank", expected=f"0..{tp - 1}",
                                     got=str(rank)))  # fmt: skip
        where = device_to_measure(device)
        return Question(device=where, tp=tp, rank=rank, runs=runs, peers=peers, quantize=quantize)


def measured(run: Run, source: str, question: Question) -> BenchLoadReport:
    """Measure how the rank's part of a checkpoint is loaded. Whatever `fp8load plan` and loading raise is raised."""
    import torch

    from fp8load.runtime.bench.measure import LoadBench
    from fp8load.runtime.bench.peer_list import all_peers

    if question.device.type == "cuda":
        torch.cuda.set_device(question.device)
    bar = Bar(progress_stream(run.settings))
    with opened(run, source) as checkpoint:
        _need_data(checkpoint)
        plan = checkpoint.plan(tp_rank=question.rank, tp_size=question.tp, quantize=question.quantize)
        bench = LoadBench(plan, question.device, num_runs=question.runs, say=bar.say)
        try:
            bench.measure(all_peers() if question.peers else ())
        except KeyboardInterrupt:
            bar.wipe()
            if bench.straggler:
                _end_at_once()
            raise
        finally:
            bar.wipe()
        return _report(bench, checkpoint, question)


def _need_data(checkpoint: Checkpoint) -> None:
    info = checkpoint.source.info
    if info.kind == "skeleton":
        raise SourceError(Problem(code="SRC010", message="a skeleton has no tensor data to load", file=info.id,
                                  expected="a checkpoint", hint="name the checkpoint itself"))  # fmt: skip


def _end_at_once() -> None:
    """Another's code still runs in a thread that nothing can end: the interpreter must not wait for it, nor take down
    under it what it uses."""
    say("interrupted; nothing was written")
    sys.stderr.flush()
    os._exit(ExitCode.INTERRUPTED)


def _report(bench: LoadBench, checkpoint: Checkpoint, question: Question) -> BenchLoadReport:
    import torch

    from fp8load.runtime.backend import device_of

    here = device_of(bench.device)
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda} | {name: version_of(name) for name in PACKAGES}
    return BenchLoadReport(
        source=checkpoint.summary().source, device=here.name or here.kind,
        capability=None if here.capability is None else ".".join(map(str, here.capability)), versions=versions,
        tp_size=question.tp, tp_rank=question.rank, nbytes=bench.nbytes, timing=_timing(bench),
        limits=[LoadLimit(what=one.what, threads=one.num_threads, link=one.is_link, gb_s=one.gb_s)
                for one in bench.limits],
        limit_gb_s=bench.limit, rows=[_row(row, bench.limit) for row in bench.rows],
        not_measured=[
            *(LoadRefusal(loader=name, reason=reason, failed=True) for name, reason in bench.failed.items()),
            *(LoadRefusal(loader=name, reason=reason, failed=False) for name, reason in bench.refused.items()),
        ],
        remarks=bench.remarks,
    )  # fmt: skip


def _timing(bench: LoadBench) -> str:
    if bench.num_runs == 1:
        return "one run each, with whatever is done once in a process"
    return f"median of {bench.num_runs} runs each, in turn"


def _row(row: Measured, limit: float | None) -> LoadRow:
    host = [one.host for one in row.extra if one.host is not None]
    device = [one.device for one in row.extra if one.device is not None]
    return LoadRow(
        loader=row.name, until=row.what, peer=row.peer, gb_s=row.gb_s, seconds=row.median, runs=list(row.seconds),
        share=None if limit is None else row.gb_s / limit, extra_host_nbytes=max(host, default=None),
        extra_device_nbytes=max(device, default=None),
    )  # fmt: skip
