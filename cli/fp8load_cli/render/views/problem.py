"""An error as a document."""

from __future__ import annotations

from fp8load.errors import Problem
from fp8load_cli.render.document import Document, Facts, Span, line


def problem_document(problem: Problem) -> Document:
    """One message: what is wrong, where, expected, got, and the next step."""
    facts = (("where", problem.where), ("expected", problem.expected), ("got", problem.got), ("hint", problem.hint))
    shown = tuple((label, text) for label, text in facts if text)
    head = line(Span(f"error[{problem.code}]", "error"), f" {problem.message}", hang=2)
    return [head, Facts(shown, indent=2)] if shown else [head]
