"""Which findings of a report can be repaired, and by which option."""

from __future__ import annotations

from collections.abc import Iterable

from fp8load.errors import Problem, Severity
from fp8load.formats.stacked import stored_problems
from fp8load.report import Finding
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs import repairs


def fixable(context: Context, problem: Problem) -> Repair | None:
    """The repair that has something to do for a problem, None where there is none. Reads no tensor: one that has to may
    find nothing to do when it is carried out."""
    repair = repairs().get(problem.code)
    if repair is not None and repair.reads:
        return repair if repair.may(context, problem) else None
    if repair is None or next(iter(repair.actions(context, problem)), None) is None:
        return None
    return repair


def by_itself(repair: Repair, problem: Problem) -> bool:
    """Whether a repair is done without being named: exact, the only way, and of a fault."""
    return not repair.only_if and problem.severity is not Severity.INFO


def with_fixes(findings: list[Finding], problems: Iterable[Problem], context: Context) -> list[Finding]:
    """The findings, those of which every problem can be repaired with a word on how."""
    known = {finding.code for finding in findings} & repairs().keys()
    if not known:
        return findings
    pieces = context.checkpoint.lowered.pieces
    texts: dict[tuple[str, str, str], str | None] = {}
    for problem in stored_problems(problems, pieces) if pieces else problems:
        if problem.code in known:
            key = (problem.code, str(problem.severity), problem.message)
            if texts.get(key, "") is not None:
                texts[key] = _text(fixable(context, problem), problem)
    return [_with(finding, texts.get((finding.code, str(finding.severity), finding.message))) for finding in findings]


def _with(finding: Finding, text: str | None) -> Finding:
    return finding if text is None else finding.model_copy(update={"fix": text})


def _text(repair: Repair | None, problem: Problem) -> str | None:
    if repair is None:
        return None
    option = "--fix" if by_itself(repair, problem) else f"--fix {problem.code}"
    return f"`{option}` {repair.title}"
