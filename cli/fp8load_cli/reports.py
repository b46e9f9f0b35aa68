"""Reports that only commands make: `plan --rank all`, `rule`, `doctor`. The others are in `fp8load.report`."""

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
    """One rule's documentation. `level` is the least that has to be read."""

    code: str
    name: str
    level: str
    severity: Severity
    since: str
    what: str
    why: str
    fix: str
    examples: list[ExampleReport]


class RuleReport(Report):
    """What rules check (`fp8load rule --json`)."""

    schema_: Literal["fp8load.rule/1"] = Field(default="fp8load.rule/1", alias="schema")
    tool: Tool = Tool()
    rules: list[RuleEntry]


class CheckReport(Report):
    """One line of `doctor`. `state` is "ok", "warn", "no" (not available here) or "broken"."""

    name: str
    state: Literal["ok", "warn", "no", "broken"]
    text: str


class DoctorReport(Report):
    """What this machine offers (`fp8load doctor --json`). `versions` has null for a package that is not installed."""

    schema_: Literal["fp8load.doctor/1"] = Field(default="fp8load.doctor/1", alias="schema")
    tool: Tool = Tool()
    python: str
    platform: str
    versions: dict[str, str | None]
    devices: list[str]
    checks: list[CheckReport]
