"""Findings as a GitLab code quality report."""

from __future__ import annotations

import json

from fp8load.patterns import escape
from fp8load.report import Finding, VerifyReport
from fp8load_cli.render.crashes import with_crashes
from fp8load_cli.render.place import fingerprint, path_of

_SEVERITIES = {"error": "major", "warning": "minor", "info": "info"}


def draw(report: VerifyReport) -> str:
    """The list that GitLab reads."""
    return json.dumps([_issue(report, finding) for finding in with_crashes(report)], indent=2) + "\n"


def _issue(report: VerifyReport, finding: Finding) -> dict[str, object]:
    return {
        "check_name": finding.code,
        "description": escape(f"{finding.name}: {finding.pattern}: {finding.message}"),
        "severity": _SEVERITIES[finding.severity],
        "fingerprint": fingerprint(finding),
        "location": {"path": escape(path_of(report, finding)), "lines": {"begin": 1}},
    }
