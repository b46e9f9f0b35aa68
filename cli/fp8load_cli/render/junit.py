"""Rules as JUnit test cases: a rule that found an error or a warning fails, one that was not run is skipped."""

from __future__ import annotations

from xml.sax.saxutils import escape as escape_xml
from xml.sax.saxutils import quoteattr

from fp8load.errors import Severity
from fp8load.patterns import escape
from fp8load.report import Finding, VerifyReport
from fp8load.rules.registry import rule_names


def draw(report: VerifyReport) -> str:
    """One suite, named after the source."""
    found: dict[str, list[Finding]] = {}
    for finding in report.findings:
        found.setdefault(finding.code, []).append(finding)
    summary = report.summary
    codes = sorted({*found, *summary.passed, *summary.not_run, *summary.crashed})
    loud = {code for code, findings in found.items() if any(f.severity is not Severity.INFO for f in findings)}
    head = (
        f'<testsuite name={_attribute(report.source.id)} tests="{len(codes)}" failures="{len(loud)}" '
        f'errors="{len(summary.crashed)}" skipped="{len(summary.not_run)}">'
    )
    names = dict(rule_names()) | {finding.code: finding.name for finding in report.findings}
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<testsuites>", head]
    for code in codes:
        lines += _case(report, f"{code} {names.get(code, '')}".rstrip(), found.get(code, []), loud=code in loud)
    return "\n".join([*lines, "</testsuite>", "</testsuites>"]) + "\n"


def _case(report: VerifyReport, name: str, findings: list[Finding], *, loud: bool) -> list[str]:
    code = name.partition(" ")[0]
    lines = [f'<testcase classname="fp8load.verify" name={_attribute(name)}>']
    if code in report.summary.crashed:
        lines.append('<error message="the rule crashed"/>')
    if code in report.summary.not_run:
        lines.append(f'<skipped message="needs more than level {report.level}"/>')
    if findings:
        tag = "failure" if loud else "system-out"
        text = "\n".join(_text(finding) for finding in findings)
        first = f" message={_attribute(findings[0].message)}" if loud else ""
        lines.append(f"<{tag}{first}>{escape_xml(text)}</{tag}>")
    return [*lines, "</testcase>"]


def _text(finding: Finding) -> str:
    facts = f"{finding.severity}: {finding.count}x {finding.pattern}: {finding.message}"
    return escape(
        f"{facts}; expected {finding.expected or '-'}; got {finding.got or '-'}"
        + (f"; {finding.hint}" if finding.hint else "")
    )


def _attribute(text: str) -> str:
    return quoteattr(escape(text))
