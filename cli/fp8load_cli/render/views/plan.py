"""PlanReport as a document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fp8load.patterns import fold
from fp8load.report import PlanReport
from fp8load_cli.render.document import Code, Column, Document, Facts, Gap, Heading, Span, Table, line
from fp8load_cli.render.units import plural, size
from fp8load_cli.render.views.inspect import title
from fp8load_cli.render.views.kernels import kernels_document, kernels_of_ranks, memory_text


def plan_document(report: PlanReport, *, with_layers: bool = False, with_skips: bool = False) -> Document:
    """What the rank holds, how much that is, and what it leaves out."""
    document: Document = [title(report.source, _rank(report)), Gap(), Facts(_facts(report))]
    if report.kernels is not None:
        document += [Gap(), *kernels_document(report.kernels)]
    if with_layers:
        document += [Gap(), *_layers(report.layers)]
    if with_skips and report.skips:
        document += [Gap(), Heading("Skipped", plural(len(report.skips), "tensor")), _skips(report.skips)]
    return document


def _rank(report: PlanReport) -> str:
    text = f"rank {report.tp_rank} of tp {report.tp_size}"
    return text if report.ep_size == 1 else f"{text}, rank {report.ep_rank} of ep {report.ep_size}"


def _facts(report: PlanReport) -> tuple[tuple[str, str | Span], ...]:
    layers = f"{plural(report.num_layers, 'quantized layer')} with {plural(report.num_slots, 'slot')}"
    made = f"{plural(report.num_tensors, 'tensor')} -> {plural(report.num_params, 'parameter')}: {layers}"
    parts = f"weights and scales {size(report.nbytes_quantized)}, high precision {size(report.nbytes_plain)}"
    staged = f"; while loading up to {size(report.nbytes_staged)} more" if report.nbytes_staged else ""
    fits = memory_text([report])
    skipped = plural(len(report.skips), "tensor") + " left on disk (-v lists them)" if report.skips else "nothing"
    return (
        ("Family", report.arch or "unknown: modules stay as they lie on disk"),
        *((("Quantize", f"{report.quantize}, while loading"),) if report.quantize else ()),
        ("Plan", f"{made}, {plural(report.num_copies, 'copy', 'copies')}"),
        ("Proof", Span(f"{report.num_elements:,} elements, every one written exactly once", "ok")),
        ("Memory", f"{size(report.nbytes)}: {parts}{staged}"),
        *((("Fits", fits),) if fits else ()),
        ("Read", f"{size(report.nbytes_read)} of {size(report.source.nbytes)}"),
        ("Skipped", skipped),
    )  # fmt: skip


def _layers(layers: Sequence[dict[str, Any]]) -> Document:
    if not layers:
        return [line("No quantized layer matches: layers go by their fused names, * is one component, ** any number.")]
    groups: dict[tuple[str, str, str], list[str]] = {}
    for layer in layers:
        fused = layer["parts"] if len(layer["parts"]) > 1 else []
        parts = ", ".join(f"{part['slot']} {part['rows']:,}" for part in fused)
        groups.setdefault((str(_shape(layer)), parts, layer["scheme"]), []).append(layer["name"])
    schemes = {layer["scheme"] for layer in layers}
    several = len(schemes) > 1
    rows = [
        (pattern, f"{len(names):,}", shape, parts, scheme if several else "")
        for (shape, parts, scheme), members in groups.items()
        for pattern, names in fold(members)
    ]
    columns = (
        Column("layer", cut=True), Column("count", right=True), Column("weight"), Column("rows of slots", drop=1),
        Column("scheme", cut=True, drop=2),
    )  # fmt: skip
    remark = f"{len(layers):,}" if several else f"{len(layers):,}, all {min(schemes)}"
    return [Heading("Quantized layers", remark), Table(columns, tuple(rows))]


def _shape(layer: dict[str, Any]) -> list[int]:
    """The weight's shape on the rank, experts first."""
    experts = layer["experts"]
    return [*layer["shape"]] if experts is None else [experts["end"] - experts["begin"], *layer["shape"]]


def _skips(skips: Sequence[dict[str, str]]) -> Table:
    by_reason: dict[str, list[str]] = {}
    for skip in skips:
        by_reason.setdefault(skip["reason"], []).append(skip["tensor"])
    rows = tuple(
        (pattern, f"{len(names):,}", reason)
        for reason, members in by_reason.items()
        for pattern, names in fold(members)
    )
    return Table((Column("tensor", cut=True), Column("count", right=True), Column("reason")), rows)


def explained_document(report: PlanReport) -> Document:
    """One tensor, followed into its parameter."""
    return [Code(tuple(report.explained or ()))]


def plans_document(reports: Sequence[PlanReport]) -> Document:
    """One row for each rank."""
    first = reports[0]
    columns = (
        Column("rank", right=True), Column("memory", right=True), Column("weights+scales", right=True, drop=1),
        Column("high precision", right=True, drop=2), Column("read", right=True),
        Column("parameters", right=True, drop=3), Column("proved elements", right=True, drop=4),
    )  # fmt: skip
    rows = tuple(
        (
            str(number), size(report.nbytes), size(report.nbytes_quantized), size(report.nbytes_plain),
            size(report.nbytes_read), f"{report.num_params:,}", f"{report.num_elements:,}",
        )
        for number, report in enumerate(reports)
    )  # fmt: skip
    sizes = f"tp {first.tp_size}" + (f", ep {first.ep_size}" if first.ep_size > 1 else "")
    sizes += f", {first.quantize} while loading" if first.quantize else ""
    document: Document = [title(first.source, sizes), Gap(), Table(columns, rows), Gap()]
    document.append(line("On every rank each element is written exactly once."))
    staged = max(report.nbytes_staged for report in reports)
    if staged:
        document.append(line(f"Memory is what a rank holds; loading takes up to {size(staged)} more."))
    fits = memory_text(reports)
    if fits:
        document.append(line(f"The rank that holds most: {fits}."))
    document += kernels_of_ranks(reports)
    for number, report in enumerate(reports):
        if report.explained:
            document += [Gap(), Heading(f"Rank {number}"), Code(tuple(report.explained))]
    return document
