"""BenchGemmReport as a document: a row for each product, then what was not measured, and what failed."""

from __future__ import annotations

from dataclasses import replace

from fp8load_cli.benching import backends_of
from fp8load_cli.render.document import Column, Document, Facts, Gap, Heading, Span, Table, line
from fp8load_cli.render.units import plural
from fp8load_cli.reports import BenchGemmReport, GemmRow

_COLUMNS = (
    Column("module", cut=True), Column("scheme", cut=True, drop=4), Column("N", right=True, drop=1),
    Column("K", right=True, drop=1), Column("M", right=True), Column("backend"), Column("us", right=True),
    Column("TFLOP/s", right=True, drop=6), Column("GB/s", right=True, drop=7), Column("of limit", right=True, drop=3),
    Column("vs bf16", right=True, drop=2), Column("rel. error", right=True, drop=5),
)  # fmt: skip


def gemm_document(report: BenchGemmReport, *, with_refusals: bool = False) -> Document:
    """Everything; of what was refused, only who was never measured, unless `with_refusals`."""
    kinds = {row.kind for row in report.rows}
    slow = all(row.tflops < 1 for row in report.rows)
    rows = tuple(_row(row, with_kind=len(kinds) > 1, slow=slow) for row in report.rows)
    remark = min(kinds) if len(kinds) == 1 else ""
    columns = tuple(replace(one, title="GFLOP/s") if slow and one.title == "TFLOP/s" else one for one in _COLUMNS)
    document: Document = [*_head(report), Gap(), Heading(plural(len(rows), "product"), remark), Table(columns, rows)]
    if report.failed:
        failed = tuple(
            (one.module, f"{one.shape[0]} x {one.shape[1]}", str(one.tokens), Span(one.backend, "error"), one.reason)
            for one in report.failed
        )
        titles = (Column("module"), Column("N x K"), Column("M", right=True), Column("backend"),
                  Column("reason", cut=True))  # fmt: skip
        document += [Gap(), Heading("Failed"), Table(titles, failed)]
    return document + _refusals(report, everything=with_refusals)


def _refusals(report: BenchGemmReport, *, everything: bool) -> Document:
    """Each reason with whose it is, and how often each of them gave it."""
    ran = set(backends_of(report.rows))
    by_reason: dict[tuple[str, int], list[str]] = {}
    for one in sorted(report.refused, key=lambda one: one.backend.startswith("peer")):
        if everything or one.backend not in ran:
            by_reason.setdefault((one.reason, one.count), []).append(one.backend)
    if not by_reason:
        return []
    return [
        Gap(),
        Heading("Not measured", "in how many cells, and why"),
        *(
            line(f"{', '.join(names)}  {count:,}  {reason}", indent=2, hang=2)
            for (reason, count), names in by_reason.items()
        ),
    ]


def _head(report: BenchGemmReport) -> Document:
    versions = "  ".join(f"{name} {version}" for name, version in report.versions.items() if version)
    capability = f", {report.capability}" if report.capability else ""
    facts = [("Limit", report.limit), ("Time", f"{report.timing}; clocks as they are")]
    facts.append(("Inputs", f"random, seed {report.seed}; bf16 in and out, quantization included"))
    if any(row.peer for row in report.rows):
        facts.append(("Peers", f"their inputs are quantized by {report.peers_quantize} kernels"))
    if report.sources:
        facts.append(("Layers", ", ".join(report.sources) + f", a rank of tp {report.tp_size}"))
    title = line(Span(f"{report.device}{capability}", "bold"), f"  {versions}", hang=2)
    return [title, Gap(), Facts(tuple(facts))]


def _row(row: GemmRow, *, with_kind: bool, slow: bool) -> tuple[str | Span, ...]:
    error = Span(f"{row.error:.1e} wrong", "error") if row.wrong else f"{row.error:.1e}"
    return (
        row.module, row.kind if with_kind else "", str(row.shape[0]), str(row.shape[1]), str(row.tokens),
        Span(row.backend, "dim" if row.peer else ""), number(row.us),
        number(row.tflops * (1000 if slow else 1)), number(row.gb_s), number(row.share),
        "" if row.vs_bf16 is None else number(row.vs_bf16), error,
    )  # fmt: skip


def number(value: float) -> str:
    """Three digits that mean something: 1423, 152, 15.1, 0.42, 0.0042."""
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}" if value >= 0.01 else f"{value:.4f}"
