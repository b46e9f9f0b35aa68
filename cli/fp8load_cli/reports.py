"""Reports that only commands make: `plan --rank all`, `rule`, `doctor`, `bench`. The others are in `fp8load.report`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fp8load.errors import Severity
from fp8load.report import PlanReport, Report, SourceReport, Tool


class PlansReport(Report):
    """The plans of all ranks (`fp8load plan --rank all --json`)."""

    schema_: Literal["fp8load.plans/1"] = Field(default="fp8load.plans/1", alias="schema")
    tool: Tool = Tool()
    source: SourceReport
    ranks: list[PlanReport]


class ExampleReport(Report):
    """An example of a rule: a checkpoint as a skeleton, the targets that are named, and how many faults are found."""

    title: str
    skeleton: str
    count: int
    tp: tuple[int, ...] | None = None
    engine: str | None = None
    arch: str | None = None


class RuleEntry(Report):
    """One rule's documentation. `level` is the least that has to be read; `repair` is what `--fix` does."""

    code: str
    name: str
    level: str
    severity: Severity
    since: str
    what: str
    why: str
    fix: str
    repair: str | None = None
    examples: list[ExampleReport]


class RuleReport(Report):
    """What rules check (`fp8load rule --json`)."""

    schema_: Literal["fp8load.rule/1"] = Field(default="fp8load.rule/1", alias="schema")
    tool: Tool = Tool()
    rules: list[RuleEntry]


class GemmRow(Report):
    """One product that was measured. `shape` is [N, K], `tokens` M.

    kind     the scheme in short; `scheme` in full
    count    how many such products the model has
    limit_us the least time that this machine could take; `share` is limit_us / us
    vs_bf16  time of the unquantized product over this one's; null where that was not measured
    error    relative Frobenius norm of the difference from the float64 product; `wrong` where it is above 0.01
    """

    module: str
    kind: str
    scheme: str
    count: int
    shape: tuple[int, int]
    tokens: int
    backend: str
    peer: bool
    us: float
    tflops: float
    gb_s: float
    nbytes: int
    limit_us: float
    share: float
    vs_bf16: float | None
    error: float
    wrong: bool


class GemmRefusal(Report):
    """A backend or peer that was not measured in `count` cells, or a layer that could not be, and why."""

    backend: str
    reason: str
    count: int


class GemmFailure(Report):
    """A backend or peer that said yes and raised, or gave what is not finite."""

    module: str
    kind: str
    shape: tuple[int, int]
    tokens: int
    backend: str
    peer: bool
    reason: str


class BenchGemmReport(Report):
    """Times of products on this machine (`fp8load bench gemm --json`).

    timing         how they were measured
    limit          what the limit is made of; peaks are dense, null where they are not known
    peers_quantize whose kernels quantize the inputs of peers
    sources        the checkpoints that layers are of, for `tp_size` ranks
    """

    schema_: Literal["fp8load.bench-gemm/1"] = Field(default="fp8load.bench-gemm/1", alias="schema")
    tool: Tool = Tool()
    device: str
    capability: str | None
    versions: dict[str, str | None]
    timing: str
    limit: str
    bandwidth_gb_s: float
    peak_fp8_tflops: float | None
    peak_bf16_tflops: float | None
    peers_quantize: str
    seed: int
    sources: list[str]
    tp_size: int
    rows: list[GemmRow]
    refused: list[GemmRefusal]
    failed: list[GemmFailure]


class LoadLimit(Report):
    """What this machine does at most, GB/s. `link`: it bounds whatever threads read; of the others the fastest does."""

    what: str
    threads: int
    link: bool
    gb_s: float


class LoadRow(Report):
    """One loader that was measured.

    until    "bytes in place" (in the fused parameters) or "sealed, prepared model"
    gb_s     10^9 bytes that this rank keeps, a second; of the median of `runs`, which is `seconds`
    share    gb_s of the limit's; null where that is not known
    extra_*  peak of memory beyond what is held at the end, and on a GPU beyond the parameters, the largest of all runs;
             null where it is not known, or there is no GPU. Both rows of fp8load have that of its whole run
    """

    loader: str
    until: str
    peer: bool
    gb_s: float
    seconds: float
    runs: list[float]
    share: float | None
    extra_host_nbytes: int | None
    extra_device_nbytes: int | None


class LoadRefusal(Report):
    """A loader without a row, and why. `failed`: it raised, or ended with other bytes; else it was not asked."""

    loader: str
    reason: str
    failed: bool


class BenchLoadReport(Report):
    """How fast a checkpoint is loaded on this machine (`fp8load bench load --json`).

    nbytes      of the files, that this rank keeps
    limit_gb_s  the smaller of the link and of what threads copy out of the page cache; null where one is not known
    remarks     what the figures are not, where that is so
    """

    schema_: Literal["fp8load.bench-load/1"] = Field(default="fp8load.bench-load/1", alias="schema")
    tool: Tool = Tool()
    source: SourceReport
    device: str
    capability: str | None
    versions: dict[str, str | None]
    tp_size: int
    tp_rank: int
    nbytes: int
    timing: str
    limits: list[LoadLimit]
    limit_gb_s: float | None
    rows: list[LoadRow]
    not_measured: list[LoadRefusal]
    remarks: list[str]


class CheckReport(Report):
    """One line of `doctor`. `state` is "ok", "warn", "no" (not available here) or "broken"."""

    name: str
    state: Literal["ok", "warn", "no", "broken"]
    text: str


class DoctorReport(Report):
    """What this machine offers (`fp8load doctor --json`). `versions` has null for a package that is not installed.

    device   what the backends were asked about: "auto" is this machine's GPU, else its CPU
    """

    schema_: Literal["fp8load.doctor/1"] = Field(default="fp8load.doctor/1", alias="schema")
    tool: Tool = Tool()
    python: str
    platform: str
    versions: dict[str, str | None]
    devices: list[str]
    device: str = "auto"
    checks: list[CheckReport]
