"""Findings as SARIF 2.1.0."""

from __future__ import annotations

import json
from typing import Any

from fp8load.patterns import escape
from fp8load.report import Finding, VerifyReport

_LEVELS = {"error": "error", "warning": "warning", "info": "note"}
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def draw(report: VerifyReport) -> str:
    """A log with one run; `logicalLocations` are tensors, `physicalLocation` is the file."""
    names = {finding.code: finding.name for finding in report.findings}
    codes = sorted(names)
    driver = {
        "name": report.tool.name,
        "version": report.tool.version,
        "rules": [{"id": code, "name": names[code]} for code in codes],
    }
    invocation = {
        "executionSuccessful": not report.summary.crashed,
        "toolExecutionNotifications": [
            {"level": "error", "message": {"text": f"rule {code} crashed"}} for code in report.summary.crashed
        ],
    }
    results = [_result(finding, codes.index(finding.code)) for finding in report.findings]
    run = {"tool": {"driver": driver}, "invocations": [invocation], "results": results}
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _result(finding: Finding, rule_index: int) -> dict[str, Any]:
    location: dict[str, Any] = {}
    if finding.file:
        location["physicalLocation"] = {"artifactLocation": {"uri": escape(finding.file)}}
    names = finding.tensors or finding.modules
    if names:
        kind = "variable" if finding.tensors else "module"
        location["logicalLocations"] = [{"fullyQualifiedName": escape(name), "kind": kind} for name in names]
    facts = [finding.message]
    facts += [f"{label} {text}" for label, text in (("expected", finding.expected), ("got", finding.got)) if text]
    return {
        "ruleId": finding.code,
        "ruleIndex": rule_index,
        "level": _LEVELS[finding.severity],
        "message": {"text": escape(f"{finding.pattern}: " + "; ".join(facts))},
        "occurrenceCount": finding.count,
        "locations": [location] if location else [],
    }
