"""Findings as JSON, one a line, ASCII."""

from __future__ import annotations

from fp8load.report import VerifyReport
from fp8load_cli.render.crashes import with_crashes


def draw(report: VerifyReport) -> str:
    """One object for each finding; its keys are those of `findings` under --json."""
    return "".join(finding.to_json(indent=None) + "\n" for finding in with_crashes(report))
