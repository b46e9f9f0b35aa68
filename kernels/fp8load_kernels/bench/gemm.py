"""Products of layers, bf16 in and out, quantization included: backends and peers on the same operands, in one run.

Shape letters: N output rows, K input columns, M tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isfinite

import torch

from fp8load.errors import BackendError, Problem
from fp8load.runtime.backend import Backend, Device, LinearWeights, No, Refusal, Yes, device_of
from fp8load_kernels.bench.accuracy import Truth
from fp8load_kernels.bench.clock import Clock, Run
from fp8load_kernels.bench.limits import Limits, measured_limits
from fp8load_kernels.bench.operands import random_input, random_weights, refuses_operands, weight_nbytes
from fp8load_kernels.bench.peer_list import BASELINE
from fp8load_kernels.bench.peers.base import Peer
from fp8load_kernels.bench.shapes import Case


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One product that was run.

    us      median time
    nbytes  that it has to move: weight and scales as it holds them, input and output in BF16
    error   relative Frobenius norm of the difference from the float64 product
    """

    case: Case
    num_tokens: int
    name: str
    peer: bool
    us: float
    nbytes: int
    limit_us: float
    error: float

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        return 2 * self.num_tokens * self.case.shape[0] * self.case.shape[1]

    @property
    def tflops(self) -> float:
        """10**12 operations in a second."""
        return self.operations / self.us / 1e6

    @property
    def gb_s(self) -> float:
        """10**9 bytes in a second."""
        return self.nbytes / self.us / 1e3

    @property
    def share(self) -> float:
        """Of the limit: 1 is as fast as this machine can be."""
        return self.limit_us / self.us


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A product that raised, or is not finite."""

    case: Case
    num_tokens: int
    name: str
    peer: bool
    reason: str


NO_MEMORY = "operands and the float64 product do not fit into the memory of this device"

Progress = Callable[[int, int, str], None]
"""Called with cells done, cells in all, and what comes next."""


@dataclass(slots=True)
class GemmBench:
    """A run: what was asked, and, as `measure` goes on, what was found.

    refused  backends and peers that do not take a layer, with how many cells that was
    """

    device: torch.device
    seed: int
    clock: Clock
    limits: Limits
    rows: list[Measured] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    refused: Counter[Refusal] = field(default_factory=Counter)

    @staticmethod
    def on(device: torch.device, *, seed: int, graph: bool = False) -> GemmBench:
        """A run on this device, whose bandwidth is measured now."""
        return GemmBench(device, seed, Clock(device, graph), measured_limits(device))

    def measure(
        self,
        cases: Sequence[Case],
        tokens: Sequence[int],
        backends: Sequence[Backend],
        peers: Sequence[Peer],
        progress: Progress | None = None,
    ) -> None:
        """Run every backend and peer that takes a layer, for each number of tokens, on operands that they share."""
        total, done = len(cases) * len(tokens), 0
        here = device_of(self.device)
        generator = torch.Generator(self.device).manual_seed(self.seed)
        for case in cases:
            reason, weights = refuses_operands(case.scheme), None
            for num_tokens in tokens:
                if progress is not None:
                    progress(done, total, f"{case.name}, M {num_tokens}")
                done += 1
                if reason:
                    self.refused[Refusal(case.name, reason)] += 1
                    continue
                try:
                    weights = weights or random_weights(case.scheme, case.parts, case.num_cols, generator)
                    x = random_input(num_tokens, case.num_cols, generator)
                    contenders = _Contenders(case, weights, x, here)
                    self._cell(contenders, [*contenders.ours(backends, self), *contenders.theirs(peers, self)])
                except RuntimeError as error:
                    if not _is_memory(error):
                        raise
                    self.refused[Refusal(case.name, NO_MEMORY)] += 1

    def _cell(self, cell: _Contenders, contenders: Sequence[_Contender]) -> None:
        """Every contender forth and back, and the mean of both: a device that has long been busy gets slower."""
        truth = Truth.of(cell.weights, cell.x)
        limit = self.limits.us(cell.nbytes(weight_nbytes(cell.weights)), cell.operations, cell.case.scheme)
        trials = [_Trial(one) for one in contenders]
        for trial in trials:
            self._tried(cell, trial, partial(trial.prepare, truth))
        for trial in (*trials, *reversed(trials)):
            self._tried(cell, trial, partial(trial.time, self.clock))
        for trial in trials:
            if trial.reason is None:
                self.rows.append(Measured(
                    case=cell.case, num_tokens=len(cell.x), name=trial.one.name, peer=trial.one.peer,
                    us=sum(trial.times) / len(trial.times), error=trial.error,
                    nbytes=cell.nbytes(trial.one.weight_nbytes), limit_us=limit,
                ))  # fmt: skip

    def _tried(self, cell: _Contenders, trial: _Trial, step: Callable[[], None]) -> None:
        """A step of a trial, unless one before it failed; what it raises is its result."""
        if trial.reason is not None:
            return
        try:
            step()
        except Exception as raised:  # noqa: BLE001 - whatever a kernel raises is its result, and others go on
            text = (str(raised).splitlines() or [""])[0]
            trial.reason = f"{type(raised).__name__}: {text}"
            self.failed.append(Failed(
                case=cell.case, num_tokens=len(cell.x), name=trial.one.name, peer=trial.one.peer, reason=trial.reason,
            ))  # fmt: skip


@dataclass(slots=True)
class _Trial:
    """A contender, and what it has come to in a cell. `reason`: why it was given up."""

    one: _Contender
    run: Run | None = None
    error: float = 0.0
    times: list[float] = field(default_factory=list)
    reason: str | None = None

    def prepare(self, truth: Truth) -> None:
        """Make the call that is timed, and measure its error. Raises `ArithmeticError` where that is not finite."""
        self.run = self.one.prepare()
        self.error = truth.error(self.run())
        if not isfinite(self.error):
            raise ArithmeticError("the product is not finite")

    def time(self, clock: Clock) -> None:
        """Take a time."""
        if self.run is not None:
            self.times.append(clock.us(self.run))


@dataclass(frozen=True, slots=True)
class _Contender:
    """What is to be run in a cell. `prepare` gives the call that is timed."""

    name: str
    peer: bool
    prepare: Callable[[], Run]
    weight_nbytes: int


@dataclass(frozen=True, slots=True)
class _Contenders:
    """A cell: a layer, an input, and who takes them."""

    case: Case
    weights: LinearWeights
    x: torch.Tensor
    here: Device

    @property
    def operations(self) -> int:
        num_rows, num_cols = self.case.shape
        return 2 * len(self.x) * num_rows * num_cols

    def nbytes(self, of_weight: int) -> int:
        """Bytes that move: the weight, and input and output in BF16."""
        return of_weight + 2 * len(self.x) * sum(self.case.shape)

    def ours(self, backends: Sequence[Backend], bench: GemmBench) -> Iterator[_Contender]:
        for backend in backends:
            verdict = backend.supports(self.case.scheme, self.case.shape, self.here)
            if isinstance(verdict, No):
                bench.refused[Refusal(backend.name, verdict.reason)] += 1
                continue
            yield _Contender(backend.name, False, partial(self._run, backend), weight_nbytes(self.weights))

    def theirs(self, peers: Sequence[Peer], bench: GemmBench) -> Iterator[_Contender]:
        num_rows, num_cols = self.case.shape
        for peer in peers:
            verdict = peer.supports(self.weights, len(self.x), self.here)
            if isinstance(verdict, No):
                bench.refused[Refusal(peer.name, verdict.reason)] += 1
                continue
            nbytes = 2 * num_rows * num_cols if peer.name == BASELINE else weight_nbytes(self.weights)
            yield _Contender(peer.name, True, partial(peer.prepare, self.weights, self.x), nbytes)

    def _run(self, backend: Backend) -> Run:
        return partial(backend.apply, backend.prepare(self.weights), self.x)


def _is_memory(error: RuntimeError) -> bool:
    """Whether torch could not allocate; on a CPU it says so in words alone."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def check_forced(names: Sequence[str], backends: Sequence[Backend], cases: Sequence[Case], here: Device) -> None:
    """Raise `BackendError` BKD801 for a name that takes none of the layers: all refuse it, or it is none of `backends`,
    which run layers."""
    by_name = {backend.name: backend for backend in backends}
    for name in names:
        reasons = {"it runs stacks of experts, and products of single layers are measured here": None}
        if name in by_name:
            verdicts = [by_name[name].supports(case.scheme, case.shape, here) for case in cases]
            if any(isinstance(verdict, Yes) for verdict in verdicts):
                continue
            reasons = dict.fromkeys(verdict.reason for verdict in verdicts if isinstance(verdict, No))
        raise BackendError(Problem(
            code="BKD801", message=f"{name} was requested and cannot run here", expected="; ".join(reasons),
            got=f"{cases[0].name}, {cases[0].scheme}, {list(cases[0].shape)}, on {here}",
            hint="`fp8load doctor` lists what runs; leave --backend out to measure all that do",
        ))  # fmt: skip


def baselines(rows: Sequence[Measured]) -> dict[tuple[Case, int], float]:
    """Microseconds of the unquantized product, by layer and number of tokens."""
    return {(row.case, row.num_tokens): row.us for row in rows if row.name == BASELINE}
