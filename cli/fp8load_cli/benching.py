"""`bench gemm` from its options to its report: which layers, which backends, and what was measured."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fp8load.errors import Problem, UsageError
from fp8load_cli.kernels import need_torch
from fp8load_cli.opening import opened
from fp8load_cli.options import chosen_list
from fp8load_cli.output import progress_stream
from fp8load_cli.reports import BenchGemmReport, GemmFailure, GemmRefusal, GemmRow
from fp8load_cli.run import Run

if TYPE_CHECKING:
    import torch

    from fp8load.plan.plan import LayerSpec
    from fp8load_kernels.bench.gemm import GemmBench, Measured, Progress
    from fp8load_kernels.bench.shapes import Case

KINDS = ("block", "channel")
_SIZES = re.compile(r"(?:(?P<M>[1-9]\d*)x)?(?P<N>[1-9]\d*)x(?P<K>[1-9]\d*)")
_SOURCE = re.compile(r"[/:]|^-$|\.skel$|\.safetensors$")
_NUMBERED = re.compile(r".*\.\d+\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the options ask for, checked. `tokens` is empty where the device decides."""

    device: torch.device
    shapes: tuple[str, ...]
    schemes: tuple[str, ...]
    tokens: tuple[int, ...]
    tp: int
    backends: tuple[str, ...]
    peers: bool
    graph: bool
    seed: int

    @staticmethod
    def of(  # noqa: PLR0913 - the options
        *,
        shapes: list[str] | None,
        schemes: list[str] | None,
        tokens: list[str] | None,
        tp: int,
        backends: list[str] | None,
        peers: bool,
        device: str | None,
        graph: bool,
        seed: int | None,
    ) -> Question:
        """The question. Raises `UsageError` for a value that there is not, `BackendError` for a device or torch."""
        where = device_to_measure(device)
        from fp8load_kernels.bench.schemes import SCHEMES

        if graph and where.type != "cuda":
            raise _no_such("--graph", "a CUDA device", str(where))
        wanted = tuple(chosen_list("--scheme", schemes)) or KINDS
        for kind in wanted:
            if kind not in SCHEMES:
                raise _no_such("--scheme", ", ".join(SCHEMES), kind)
        numbers = chosen_list("--tokens", tokens)
        for text in numbers:
            if not text.isdecimal() or not int(text):
                raise _no_such("--tokens", "whole numbers of at least 1", text)
        return Question(
            device=where, shapes=tuple(dict.fromkeys(chosen_list("--shapes", shapes))), schemes=wanted,
            tokens=tuple(dict.fromkeys(int(text) for text in numbers)), tp=tp,
            backends=tuple(chosen_list("--backend", backends)), peers=peers, graph=graph,
            seed=int.from_bytes(os.urandom(4), "big") if seed is None else seed,
        )  # fmt: skip


def device_to_measure(text: str | None) -> torch.device:
    """The device of `--device`, or the GPU, if there is one. Raises `BackendError` without torch, or without it."""
    need_torch("measuring")
    import torch

    from fp8load.runtime.devices import torch_device

    where = torch_device(text or ("cuda" if torch.cuda.is_available() else "cpu"))
    if where.type not in ("cuda", "cpu"):
        raise _no_such("--device", "cuda or cpu", str(text))
    return where


@dataclass(frozen=True, slots=True)
class Job:
    """Layers that are measured with these numbers of tokens, and the checkpoint that they are of."""

    cases: list[Case]
    tokens: tuple[int, ...]
    source: str = ""


def measured(run: Run, question: Question) -> BenchGemmReport:
    """Measure what is asked for. Raises `UsageError` BKD800 and `BackendError` BKD801 before anything is measured."""
    import torch

    from fp8load.runtime.backend import backends_for, backends_named, device_of
    from fp8load.runtime.choose import known_names
    from fp8load_kernels.bench.gemm import GemmBench, check_forced
    from fp8load_kernels.bench.peer_list import all_peers

    here = device_of(question.device)
    names = known_names(question.backends, here)
    backends = backends_named(names, here) if names else backends_for(here)
    jobs = jobs_of(run, question)
    check_forced(names, backends, [case for job in jobs for case in job.cases], here)
    if question.device.type == "cuda":
        torch.cuda.set_device(question.device)
    bench = GemmBench.on(question.device, seed=question.seed, graph=question.graph)
    total, done = sum(len(job.cases) * len(job.tokens) for job in jobs), 0
    for job in jobs:
        bench.measure(job.cases, job.tokens, backends, all_peers() if question.peers else (),
                      _progress(run, done, total))  # fmt: skip
        done += len(job.cases) * len(job.tokens)
    _progress(run, done, total)(0, 0, "")
    return _report(bench, question, [job.source for job in jobs if job.source])


def jobs_of(run: Run, question: Question) -> list[Job]:
    """The layers that `--shapes` names; without it, the built-in ones that suit the device."""
    from fp8load_kernels.bench.shapes import FEW_TOKENS, SHAPES, TOKENS, groups, named, sized

    on_gpu = question.device.type == "cuda"
    default = tuple(SHAPES) if on_gpu else ("small",)
    tokens = question.tokens or (TOKENS if on_gpu else FEW_TOKENS)
    jobs = []
    for text in question.shapes or default:
        sizes, there = _SIZES.fullmatch(text), Path(text).exists()
        known = [case for kind in question.schemes for case in named(text, kind)]
        if sizes and not there:
            shape = int(sizes["N"]), int(sizes["K"])
            cases = [sized(f"{shape[0]}x{shape[1]}", shape, kind) for kind in question.schemes]
            jobs.append(Job(cases, (int(sizes["M"]),) if sizes["M"] else tokens))
        elif known and not there:
            jobs.append(Job(known, tokens))
        elif not there and not _SOURCE.search(text):
            raise _no_such("--shapes", f"NxK, MxNxK, a checkpoint, or built-in layers: {', '.join(groups())}", text)
        else:
            jobs.append(_of_checkpoint(run, text, question.tp, tokens))
    return jobs


def _of_checkpoint(run: Run, text: str, tp: int, tokens: tuple[int, ...]) -> Job:
    """The quantized layers of rank 0, those that are alike once; of experts one product."""
    with opened(run, text) as checkpoint:
        plan = checkpoint.plan(tp_size=tp)
        source = checkpoint.source.info.id
    cases: dict[tuple[object, ...], Case] = {}
    counts: dict[tuple[object, ...], int] = {}
    for layer in plan.layers.values():
        key = (layer.scheme, tuple(rows for _, rows in layer.parts), layer.num_cols)
        cases.setdefault(key, _case(layer))
        counts[key] = counts.get(key, 0) + layer.num_members
    if not cases:
        raise UsageError(Problem(code="USE010", message="there is no quantized layer to measure", file=text,
                                 hint="`fp8load inspect` says what the checkpoint holds"))  # fmt: skip
    from dataclasses import replace

    return Job([replace(case, count=counts[key]) for key, case in cases.items()], tokens, source)


def _case(layer: LayerSpec) -> Case:
    from fp8load_kernels.bench.shapes import Case

    weight = layer.scheme.weight
    kind = f"{weight.dtype.lower()} {weight.granularity}" + ("" if layer.scheme.input else ", weight-only")
    name = _NUMBERED.sub("", layer.name)
    return Case(name=name, kind=kind, scheme=layer.scheme, parts=layer.parts, num_cols=layer.num_cols)


def _progress(run: Run, before: int, total: int) -> Progress:
    """One line on a terminal, which the end wipes away."""
    stream = progress_stream(run.settings)

    def draw(done: int, _: int, what: str) -> None:
        if stream is not None:
            stream.write(f"\r\x1b[K{before + done}/{total}  {what}" if what else "\r\x1b[K")
            stream.flush()

    return draw


def _report(bench: GemmBench, question: Question, sources: list[str]) -> BenchGemmReport:
    import torch

    from fp8load.runtime.backend import device_of
    from fp8load_kernels.bench.gemm import baselines
    from fp8load_kernels.bench.peers.quantizers import quantizer_name

    here, peak, plain = device_of(bench.device), bench.limits.peak, baselines(bench.rows)
    rows = [_row(row, plain.get((row.case, row.num_tokens))) for row in bench.rows]
    return BenchGemmReport(
        device=here.name or here.kind,
        capability=None if here.capability is None else ".".join(map(str, here.capability)),
        versions={"torch": torch.__version__, "cuda": torch.version.cuda, "triton": version_of("triton")},
        timing=bench.clock.method, limit=bench.limits.note, bandwidth_gb_s=bench.limits.bandwidth / 1e3,
        peak_fp8_tflops=peak and peak.fp8, peak_bf16_tflops=peak and peak.bf16, peers_quantize=quantizer_name(),
        seed=bench.seed, sources=sources, tp_size=question.tp, rows=rows,
        refused=[GemmRefusal(backend=name, reason=reason, count=n) for (name, reason), n in bench.refused.items()],
        failed=[
            GemmFailure(module=one.case.name, kind=one.case.kind, shape=one.case.shape, tokens=one.num_tokens,
                        backend=one.name, peer=one.peer, reason=one.reason)
            for one in bench.failed
        ],
    )  # fmt: skip


def _row(row: Measured, plain_us: float | None) -> GemmRow:
    from fp8load_kernels.bench.accuracy import TOLERANCE

    return GemmRow(
        module=row.case.name, kind=row.case.kind, scheme=str(row.case.scheme), count=row.case.count,
        shape=row.case.shape, tokens=row.num_tokens, backend=row.name, peer=row.peer, us=row.us, tflops=row.tflops,
        gb_s=row.gb_s, nbytes=row.nbytes, limit_us=row.limit_us, share=row.share,
        vs_bf16=None if plain_us is None else plain_us / row.us, error=row.error, wrong=row.error > TOLERANCE,
    )  # fmt: skip


def version_of(package: str) -> str | None:
    """What is installed of a package, or None."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _no_such(option: str, expected: str, got: str) -> UsageError:
    return UsageError(Problem(code="USE010", message=f"{option} does not take this value", expected=expected, got=got))


def backends_of(rows: Sequence[GemmRow]) -> list[str]:
    """The names of what was measured, ours before peers, in the order in which they came."""
    return list(dict.fromkeys(row.backend for row in sorted(rows, key=lambda row: row.peer)))
