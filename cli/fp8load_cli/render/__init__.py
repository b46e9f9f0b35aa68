"""Renderers: one file for each format, and the views that turn reports into documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fp8load.report import Report
    from fp8load_cli.render.document import Document
    from fp8load_cli.run import Run


def show(run: Run, report: Report, document: Document) -> None:
    """Write a report in one of the formats that every report has: json, md, text."""
    from fp8load_cli.render import md, text

    match run.settings.format:
        case "json":
            run.out.report(report.to_json() + "\n")
        case "md":
            if run.settings.quiet < 2:
                run.out.report(md.draw(document))
        case _:
            if run.settings.quiet < 2:
                run.out.report(text.draw(document, run.out.style))
