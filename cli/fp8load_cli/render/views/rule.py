"""A rule's documentation as a document."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import dedent

from fp8load_cli.render.document import Code, Column, Document, Facts, Gap, Heading, Span, Table, line
from fp8load_cli.reports import ExampleReport, RuleEntry


def rule_document(rule: RuleEntry) -> Document:
    """One rule: what, why, fix, its examples, how to suppress it."""
    texts = (("What it checks", rule.what), ("Why it matters", rule.why), ("How to fix", rule.fix))
    document: Document = [
        line(
            Span(f"{rule.code} {rule.name}", "bold"), "     ", Span(str(rule.severity), str(rule.severity)),
            Span(f", reads {rule.level}, since {rule.since}", "dim"),
        ),
        Gap(),
        Facts(tuple((label, one_line(text)) for label, text in texts)),
    ]  # fmt: skip
    for example in rule.examples:
        document += [Gap(), *_example(example)]
    suppress = f'--ignore {rule.code}, or in fp8load.toml: ignore = ["{rule.code}"]'
    return [*document, Gap(), Facts((("Suppress", suppress),), min_label=14)]


def _example(example: ExampleReport) -> Document:
    verdict = f"fires {example.count} times" if example.count > 1 else "fires" if example.count else "silent"
    options = {
        "--tp": example.tp and ",".join(map(str, example.tp)),
        "--engine": example.engine,
        "--arch": example.arch,
    }
    targets = " ".join(f"{option} {value}" for option, value in options.items() if value)
    verdict += f" with {targets}" if targets else ""
    lines = tuple(dedent(example.skeleton).strip("\n").splitlines())
    return [Heading(example.title, verdict), Code(lines, indent=2)]


def list_document(rules: Sequence[RuleEntry]) -> Document:
    """One row for each rule."""
    columns = (
        Column("code"), Column("severity"), Column("reads", drop=1), Column("name", cut=True),
        Column("checks that", cut=True, drop=2),
    )  # fmt: skip
    rows = tuple((r.code, Span(str(r.severity), str(r.severity)), r.level, r.name, one_line(r.what)) for r in rules)
    return [Table(columns, rows, indent=0)]


def one_line(text: str) -> str:
    """Text of a source file's several lines as one."""
    return " ".join(text.split())
