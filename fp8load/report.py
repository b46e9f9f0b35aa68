"""Reports: what `--json` prints and what the library returns. Schemas only grow; byte counts are integers."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SkipValidation

from fp8load.errors import Problem, Severity, VerifyError
from fp8load.kernel_report import KernelsReport
from fp8load.module_report import ModuleReport
from fp8load.units import size
from fp8load.version import VERSION


class Report(BaseModel):
    """Base of all reports: immutable, and keys are what the JSON has."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, serialize_by_alias=True)

    def to_json(self, *, indent: int | None = 2) -> str:
        """The report as the JSON that the command prints: ASCII, so that no name can steer a terminal."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=indent)

    def __str__(self) -> str:
        return repr(self)


class Tool(Report):
    """Which program wrote the report."""

    name: str = "fp8load"
    version: str = VERSION


class SourceReport(Report):
    """What was looked at. `nbytes` counts tensor data and headers of all files."""

    kind: str
    id: str
    revision: str | None = None
    commit: str | None = None
    files: int
    nbytes: int


class Read(Report):
    """What was read to answer."""

    nbytes: int
    requests: int


class FileReport(Report):
    """One safetensors file."""

    name: str
    nbytes: int
    header_nbytes: int
    num_tensors: int


class DTypeReport(Report):
    """Tensors of one dtype. `kind` is "weight", "scale" or "other"."""

    dtype: str
    kind: Literal["weight", "scale", "other"]
    num_tensors: int
    num_elements: int
    nbytes: int


class SchemeReport(Report):
    """A way in which modules are quantized, and how many are."""

    scheme: str
    count: int
    weight_dtype: str
    granularity: str
    scale_dtype: str | None
    input: str


class TensorReport(Report):
    """One tensor as its header declares it; `begin` is its absolute offset in the file."""

    name: str
    dtype: str
    shape: list[int]
    nbytes: int
    file: str
    begin: int


class InspectReport(Report):
    """What a checkpoint holds, from headers alone (`fp8load inspect --json`)."""

    schema_: Literal["fp8load.inspect/1"] = Field(default="fp8load.inspect/1", alias="schema")
    tool: Tool = Tool()
    source: SourceReport
    read: Read
    format: str
    format_title: str
    format_place: str
    arch: str | None
    model_type: str | None
    files: list[FileReport]
    nbytes: int
    num_tensors: int
    num_params: int
    dtypes: list[DTypeReport]
    schemes: list[SchemeReport]
    kv_scales: int
    modules: SkipValidation[list[ModuleReport]]
    unknown_keys: list[str]
    tensors: list[TensorReport] | None = None

    def __repr__(self) -> str:
        held = f"{self.num_tensors:,} tensors, {size(self.nbytes)}"
        return f"InspectReport({self.source.id}: {self.format_title}, {held})"


class Finding(Report):
    """One rule's verdict on one group of equal faults. `tensors`, `modules`, `files`: at most the first hundred.

    `siblings` says what part of its family the tensors are ("2 of 62 model.layers.*.mlp.down_proj.weight"), where they
    are no whole family: names that are equal but for their numbers.
    """

    code: str
    name: str
    severity: Severity
    count: int
    pattern: str
    modules: list[str]
    tensors: list[str]
    file: str
    files: list[str] = []
    message: str
    expected: str
    got: str
    hint: str
    fix: str | None = None
    explained_by: str | None = None
    siblings: str = ""


class Summary(Report):
    """Counts of findings by severity, and what became of each rule."""

    error: int
    warning: int
    info: int
    passed: list[str]
    not_run: list[str]
    crashed: list[str]


class EngineReport(Report):
    """Whether one engine loads a checkpoint as it is meant, as far as its profile knows; if not, why, and the codes of
    the rules that say more. What is wrong for every reader is a finding, and no matter of an engine."""

    engine: str
    version: str
    title: str
    role: Literal["engine", "converter"]
    loads: bool
    why: str
    codes: list[str]
    read_from: str


class ModuleDistance(Report):
    """One weight against the source's.

    `sqnr_db`: signal-to-quantization-noise ratio; null where the weights are identical, or not comparable (`why`).
    `max_error`: the largest difference, relative to the source's largest magnitude.
    """

    module: str
    scheme: str | None
    identical: bool = False
    sqnr_db: float | None = None
    max_error: float | None = None
    why: str = ""


class SchemeDistance(Report):
    """The weights of one scheme that are not identical: how many, and the spread of their distances."""

    scheme: str
    count: int
    sqnr_db_median: float | None
    sqnr_db_lowest: float | None
    lowest: str
    max_error: float | None


class AgainstReport(Report):
    """Weights against those of another checkpoint. `only_here`, `only_there`: names of modules, the first hundred."""

    source: SourceReport
    read: Read
    compared: int
    identical: int
    not_compared: int
    num_only_here: int
    num_only_there: int
    only_here: list[str]
    only_there: list[str]
    schemes: list[SchemeDistance]
    modules: SkipValidation[list[ModuleDistance]]


class FixReport(Report):
    """A kind of repair that the checkpoint has had: how many faults of a rule, and what was done."""

    code: str
    title: str
    count: int


class VerifyReport(Report):
    """What is wrong with a checkpoint (`fp8load verify --json`)."""

    schema_: Literal["fp8load.verify/1"] = Field(default="fp8load.verify/1", alias="schema")
    tool: Tool = Tool()
    source: SourceReport
    level: Literal["headers", "scales", "weights"]
    tp: list[int] | None = None
    legal_tp: list[int] | None = None
    engines: list[str] = []
    gpu: str | None = None
    portability: list[EngineReport] = []
    read: Read
    summary: Summary
    findings: list[Finding]
    against: AgainstReport | None = None
    fixed: list[FixReport] | None = None

    def __repr__(self) -> str:
        found = self.summary
        counts = f"{found.error} errors, {found.warning} warnings, {found.info} info, {len(found.passed)} rules passed"
        return f"VerifyReport({self.source.id}: {'ok' if self.ok else 'fail'}, level {self.level}, {counts})"

    @property
    def ok(self) -> bool:
        """Whether there is no error and no rule crashed."""
        return self.summary.error == 0 and not self.summary.crashed

    def raise_for_errors(self) -> VerifyReport:
        """Raise `VerifyError` naming the first error; return the report when there is none."""
        errors = [finding for finding in self.findings if finding.severity is Severity.ERROR]
        if not errors and not self.summary.crashed:
            return self
        if not errors:
            raise VerifyError(Problem(code=self.summary.crashed[0], message="a rule crashed, so nothing is proved"))
        first = errors[0]
        subject = first.tensors[0] if first.tensors else ""
        more = sum(finding.count for finding in errors) - 1
        raise VerifyError(Problem(
            code=first.code, message=first.message, tensor=subject, module="" if subject else first.pattern,
            file=first.file, expected=first.expected, got=first.got,
            hint=f"{first.hint}; {more} more errors" if more else first.hint,
        ))  # fmt: skip


class PlanReport(Report):
    """One rank's plan (`fp8load plan --json`). `kernels` where a device or a backend was named.

    quantize       how weights are quantized while they are loaded; parameters, layers and `nbytes` are then what they
                   become. Null where they are loaded as they are
    num_tensors    of the files
    nbytes_read    of the files, by this rank: what it keeps, and whole weights that are quantized
    nbytes_staged  what loading takes beside `nbytes` at most, for weights that are quantized
    """

    schema_: Literal["fp8load.plan/1"] = Field(default="fp8load.plan/1", alias="schema")
    tool: Tool = Tool()
    source: SourceReport
    tp_rank: int
    tp_size: int
    ep_rank: int
    ep_size: int
    digest: str
    arch: str | None
    quantize: str | None = None
    num_tensors: int
    num_layers: int
    num_params: int
    num_slots: int
    num_copies: int
    num_elements: int
    nbytes: int
    nbytes_quantized: int
    nbytes_plain: int
    nbytes_read: int
    nbytes_staged: int = 0
    skips: list[dict[str, str]]
    layers: list[dict[str, Any]]
    explained: list[str] | None = None
    kernels: KernelsReport | None = None


class ErrorReport(Report):
    """The envelope that `--json` prints when the question could not be answered."""

    schema_: Literal["fp8load.error/1"] = Field(default="fp8load.error/1", alias="schema")
    tool: Tool = Tool()
    command: str
    code: str
    error: str
    message: str
    where: str
    expected: str
    got: str
    hint: str
    exit_code: int
