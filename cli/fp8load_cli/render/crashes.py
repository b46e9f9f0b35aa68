"""Rules that crashed, for formats that are lists of findings: there each is an error of its own."""

from __future__ import annotations

from fp8load.errors import Severity
from fp8load.report import Finding, VerifyReport
from fp8load.rules.registry import rule_names


def with_crashes(report: VerifyReport) -> list[Finding]:
    """The findings, and one for each rule that crashed. A list without them would read as if nothing were wrong."""
    names = dict(rule_names())
    return [*report.findings, *(_crash(code, names.get(code, "problem")) for code in report.summary.crashed)]


def _crash(code: str, name: str) -> Finding:
    return Finding(
        code=code, name=name, severity=Severity.ERROR, count=1, pattern=name, modules=[], tensors=[], file="", files=[],
        message="the rule crashed, and what it checks is not known", expected="", got="",
        hint="-v shows why; please report it",
    )  # fmt: skip
