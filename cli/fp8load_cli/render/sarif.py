"""Findings as SARIF 2.1.0."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from fp8load.patterns import escape
from fp8load.report import Finding, VerifyReport
from fp8load.rules.base import Rule
from fp8load.rules.registry import rules
from fp8load_cli.render.place import fingerprint, path_of

_LEVELS = {"error": "error", "warning": "warning", "info": "note"}
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def draw(report: VerifyReport) -> str:
    """A log with one run; `logicalLocations` are tensors, `physicalLocation` is the file."""
    names = {finding.code: finding.name for finding in report.findings}
    codes = sorted(names)
    known = {rule.code: rule for rule in rules()}
    driver = {
        "name": report.tool.name,
        "version": report.tool.version,
        "rules": [_descriptor(code, names[code], known) for code in codes],
    }
    invocation = {
        "executionSuccessful": not report.summary.crashed,
        "toolExecutionNotifications": [
            {"level": "error", "message": {"text": f"rule {code} crashed"}} for code in report.summary.crashed
        ],
    }
    results = [_result(report, finding, codes.index(finding.code)) for finding in report.findings]
    run = {"tool": {"driver": driver}, "invocations": [invocation], "results": results}
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _descriptor(code: str, name: str, known: Mapping[str, Rule]) -> dict[str, Any]:
    """A rule: what viewers show above its results, and its page as help."""
    rule = known.get(code)
    if rule is None:
        return {"id": code, "name": name, "shortDescription": {"text": name}}
    page = f"{rule.what}\n\nWhy: {rule.why}\n\nCure: {rule.fix}"
    return {
        "id": code,
        "name": name,
        "shortDescription": {"text": name},
        "fullDescription": {"text": rule.what},
        "help": {"text": page, "markdown": page},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
    }


def _result(report: VerifyReport, finding: Finding, rule_index: int) -> dict[str, Any]:
    uri = quote(escape(path_of(report, finding)))
    location: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}  # a line, or viewers drop it
    }
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
        "locations": [location],
        "partialFingerprints": {"finding/v1": fingerprint(finding)},
    }
