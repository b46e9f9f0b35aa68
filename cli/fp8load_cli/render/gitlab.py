"""Findings as a GitLab code quality report."""

from __future__ import annotations

import hashlib
import json

from fp8load.patterns import escape
from fp8load.report import Finding, VerifyReport

_SEVERITIES = {"error": "major", "warning": "minor", "info": "info"}


def draw(report: VerifyReport) -> str:
    """The list that GitLab reads."""
    return json.dumps([_issue(finding) for finding in report.findings], indent=2) + "\n"


def _issue(finding: Finding) -> dict[str, object]:
    identity = "\0".join((finding.code, finding.file, finding.pattern, finding.message))
    return {
        "check_name": finding.code,
        "description": escape(f"{finding.name}: {finding.pattern}: {finding.message}"),
        "severity": _SEVERITIES[finding.severity],
        "fingerprint": hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest(),
        "location": {"path": escape(finding.file) or "config.json", "lines": {"begin": 1}},
    }
