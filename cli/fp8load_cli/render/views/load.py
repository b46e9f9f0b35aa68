"""BenchLoadReport as a document: what bounds loading here, a row for each loader, then who has none."""

from __future__ import annotations

from fp8load_cli.render.document import Column, Document, Facts, Gap, Heading, Span, Table, line
from fp8load_cli.render.units import plural, size
from fp8load_cli.render.views.gemm import number
from fp8load_cli.reports import BenchLoadReport, LoadLimit, LoadRow

_COLUMNS = (
    Column("loader", cut=True), Column("until", cut=True, drop=2), Column("GB/s", right=True),
    Column("seconds", right=True, drop=1), Column("of limit", right=True, drop=3),
    Column("extra host", right=True, drop=4), Column("extra GPU", right=True, drop=5),
)  # fmt: skip


def load_document(report: BenchLoadReport) -> Document:
    """Everything."""
    shown = (True, True, True, True, report.limit_gb_s is not None, _knows_host(report), report.capability is not None)
    columns = tuple(column for column, is_shown in zip(_COLUMNS, shown, strict=True) if is_shown)
    rows = tuple(
        tuple(cell for cell, is_shown in zip(_row(row), shown, strict=True) if is_shown) for row in report.rows
    )
    document: Document = [*_head(report), Gap(), Table(columns, rows, indent=0)]
    for title, failed in (("Failed", True), ("Not measured", False)):
        found = [one for one in report.not_measured if one.failed is failed]
        if found:
            document += [Gap(), Heading(title)]
            document += [line(f"{one.loader}  {one.reason}", indent=2, hang=2) for one in found]
    return document


def _head(report: BenchLoadReport) -> Document:
    versions = "  ".join(f"{name} {version}" for name, version in report.versions.items() if version)
    capability = f", {report.capability}" if report.capability else ""
    whole, files = report.source.nbytes, plural(report.source.files, "file")
    rank = f", rank {report.tp_rank} of tp {report.tp_size}" if report.tp_size > 1 else ""
    facts = [("Read", f"{report.source.id}{rank}: {_gb(report.nbytes)} of {_gb(whole)} in {files}")]
    facts += [("Limit", _limit(report)), ("Time", f"{report.timing}; {_cache(report)}")]
    facts += [("Memory", _memory(report)), *(("Note", remark) for remark in report.remarks)]
    return [line(Span(f"{report.device}{capability}", "bold"), f"  {versions}", hang=2), Gap(), Facts(tuple(facts))]


def _cache(report: BenchLoadReport) -> str:
    return "files in the page cache" if report.limit_gb_s is not None else "files from elsewhere"


def _limit(report: BenchLoadReport) -> str:
    """What it is, and what it is made of: the smaller of two, of which one is the best of several."""
    links = "; ".join(f"{one.what} {number(one.gb_s)}" for one in report.limits if one.link)
    reads: dict[str, list[LoadLimit]] = {}
    for one in report.limits:
        if not one.link:
            reads.setdefault(one.what, []).append(one)
    by_threads = "; ".join(
        f"{what} " + ", ".join(f"{number(one.gb_s)} ({plural(one.threads, 'thread')})" for one in ones)
        for what, ones in reads.items()
    )
    parts = "; ".join(part for part in (links, by_threads) if part)
    if report.limit_gb_s is None:
        return f"not known; {parts}, GB/s"
    return f"{number(report.limit_gb_s)} GB/s, the smaller of {parts}"


def _memory(report: BenchLoadReport) -> str:
    beyond = "peaks beyond what is held at the end" + (" and beyond the parameters" if report.capability else "")
    if _knows_host(report):
        return f"{beyond}; pages of mapped files count"
    left_out = "that of the host is left out: this system does not tell its peak"
    return f"{beyond}; {left_out}" if report.capability else left_out


def _knows_host(report: BenchLoadReport) -> bool:
    return any(row.extra_host_nbytes is not None for row in report.rows)


def _row(row: LoadRow) -> tuple[str | Span, ...]:
    return (
        Span(row.loader, "dim" if row.peer else ""), row.until, number(row.gb_s), number(row.seconds),
        "" if row.share is None else number(row.share), _size(row.extra_host_nbytes), _size(row.extra_device_nbytes),
    )  # fmt: skip


def _size(nbytes: int | None) -> str:
    return "" if nbytes is None else size(nbytes)


def _gb(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.1f} MB"
