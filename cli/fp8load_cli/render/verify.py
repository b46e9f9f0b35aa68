"""VerifyReport in the format that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fp8load.errors import Severity
from fp8load.report import Finding, VerifyReport

if TYPE_CHECKING:
    from fp8load_cli.render.html import Parts
    from fp8load_cli.run import Run


def render(run: Run, report: VerifyReport, *, limit: int | None, statistics: bool, parts: Parts | None = None) -> str:
    """The report as text. `limit` shows so many findings; counts and the exit code are of all. A page has `parts`."""
    from fp8load_cli.render import concise, github, gitlab, jsonl, junit, md, sarif, text
    from fp8load_cli.render.views.verify import statistics_document, verify_document

    hidden = 0
    shown = report
    if limit is not None and len(report.findings) > limit:
        hidden = len(report.findings) - limit
        shown = report.model_copy(update={"findings": _loudest(report.findings, limit)})
    chosen = run.settings.format
    if chosen == "json":
        return shown.to_json() + "\n"
    if parts is not None:
        from fp8load_cli.render import html

        return html.draw(parts, shown)
    machine: dict[str, Callable[[VerifyReport], str]] = {
        "concise": concise.draw,
        "jsonl": jsonl.draw,
        "github": github.draw,
        "gitlab": gitlab.draw,
        "sarif": sarif.draw,
        "junit": junit.draw,
    }
    if chosen in machine:
        return machine[chosen](shown)
    if run.settings.quiet > 1:
        return ""
    if statistics:
        document = statistics_document(report)
    else:
        document = verify_document(shown, hidden=hidden, brief=run.settings.quiet == 1, detail=run.settings.verbose > 0)
    return md.draw(document) if chosen == "md" else text.draw(document, run.out.style)


def verdict(report: VerifyReport) -> str:
    """One line: whether the checkpoint is sound, and how many findings say so."""
    from fp8load_cli.render.text import Style, draw
    from fp8load_cli.render.views.verify import verdict_line

    return draw([verdict_line(report)], Style()).rstrip()


def _loudest(findings: list[Finding], limit: int) -> list[Finding]:
    """So many findings, errors before warnings before notes, in the order of the report."""
    severities = list(Severity)
    by_severity = sorted(range(len(findings)), key=lambda at: severities.index(findings[at].severity))
    return [findings[at] for at in sorted(by_severity[:limit])]
