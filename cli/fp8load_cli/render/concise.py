"""Findings one a line, for grep: source:file: code [severity] count pattern message."""

from __future__ import annotations

from fp8load.patterns import escape
from fp8load.report import VerifyReport
from fp8load_cli.render.crashes import with_crashes


def draw(report: VerifyReport) -> str:
    """One line for each finding."""
    lines = []
    for finding in with_crashes(report):
        place = f"{report.source.id}:{finding.file}" if finding.file else report.source.id
        times = f"{finding.count}x " if finding.count > 1 else ""
        head = f"{place}: {finding.code} [{finding.severity}]"
        lines.append(escape(f"{head} {times}{finding.pattern}: {finding.message}"))
    return "".join(text + "\n" for text in lines)
