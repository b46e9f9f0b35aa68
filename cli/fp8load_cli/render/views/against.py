"""AgainstReport as a part of a document."""

from __future__ import annotations

from fp8load.report import AgainstReport
from fp8load_cli.render.document import Cell, Column, Document, Span, Table, line
from fp8load_cli.render.units import plural, size


def against_document(report: AgainstReport) -> Document:
    """With what it was compared, the spread of each scheme, and what was not compared."""
    read = f": {size(report.read.nbytes)} read" if report.read.requests else ""
    heading = f"Against {report.source.id}{read}; {plural(report.compared, 'weight')} compared, "
    document: Document = [line(heading, f"{report.identical:,} identical")]
    if report.schemes:
        rows: list[tuple[Cell, ...]] = []
        for found in report.schemes:
            error = "" if found.max_error is None else f"{found.max_error:.2g}"
            decibels = (_decibels(found.sqnr_db_median), _decibels(found.sqnr_db_lowest))
            rows.append((found.scheme, f"{found.count:,}", *decibels, error, found.lowest))
        columns = (
            Column("stored as"), Column("weights", right=True), Column("SQNR median", right=True, drop=2),
            Column("lowest", right=True), Column("max error", right=True, drop=1), Column("the lowest is", cut=True),
        )  # fmt: skip
        document.append(Table(columns, tuple(rows)))
    unknown = [found.module for found in report.modules if found.why]
    for number, names, what in (
        (report.not_compared, unknown, "not compared"),
        (report.num_only_here, report.only_here, "only here"),
        (report.num_only_there, report.only_there, "only in the source"),
    ):
        if number:
            others = " ..." if number > 3 else ""
            text = f"{what}: {plural(number, 'weight')}, {', '.join(names[:3])}{others}"
            document.append(line(Span(text, "dim"), indent=2, hang=2))
    return document


def _decibels(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} dB"
