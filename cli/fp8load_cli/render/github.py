"""Findings as annotations of GitHub Actions."""

from __future__ import annotations

from fp8load.patterns import escape
from fp8load.report import Finding, VerifyReport
from fp8load_cli.render.crashes import with_crashes
from fp8load_cli.render.place import path_of

_LEVELS = {"error": "error", "warning": "warning", "info": "notice"}


def draw(report: VerifyReport) -> str:
    """One workflow command for each finding."""
    return "".join(_command(report, finding) + "\n" for finding in with_crashes(report))


def _command(report: VerifyReport, finding: Finding) -> str:
    file = f",file={_property(path_of(report, finding))}" if finding.file else ""
    title = _property(f"fp8load ({finding.code})")
    times = f"{finding.count}x " if finding.count > 1 else ""
    text = f"{times}{finding.pattern}: {finding.message}"
    if finding.expected:
        text += f"; expected {finding.expected}"
    if finding.got:
        text += f"; got {finding.got}"
    return f"::{_LEVELS[finding.severity]} title={title}{file}::{_data(text)}"


def _data(text: str) -> str:
    return escape(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
