"""The choice of kernels as a document: what runs which layers, and what was asked before and refused."""

from __future__ import annotations

from collections.abc import Sequence

from fp8load.kernel_report import KernelsReport, MemoryReport
from fp8load.report import PlanReport
from fp8load_cli.render.document import Column, Document, Gap, Heading, Table, line


def kernels_document(kernels: KernelsReport, *, title: str = "Kernels") -> Document:
    """A row for each backend, scheme and shape; then each reason once."""
    schemes = {one.scheme for one in kernels.chosen}
    remark = kernels.device + (f", {kernels.title}" if kernels.title else "")
    if kernels.forced is not None:
        remark += f"; {kernels.forced} {'were' if ', ' in kernels.forced else 'was'} asked for"
    if not kernels.chosen:
        return [Heading(title, remark), line("no quantized layer", indent=2)]
    if len(schemes) == 1:
        remark += f"; all {min(schemes)}"
    columns = (
        Column("backend"), Column("modules", right=True), Column("weight"), Column("layers", cut=True, drop=1),
        Column("scheme", cut=True, drop=2),
    )  # fmt: skip
    rows = tuple(
        (one.backend, f"{one.count:,}", str(list(one.shape)), ", ".join(one.layers),
         one.scheme if len(schemes) > 1 else "")
        for one in kernels.chosen
    )  # fmt: skip
    document: Document = [Heading(title, remark), Table(columns, rows)]
    return document + _refusals(kernels)


def _refusals(kernels: KernelsReport) -> Document:
    """A line for each reason, which a terminal wraps: cut in its middle it would say nothing."""
    if not kernels.refused:
        return []
    widest = max(len(one.backend) for one in kernels.refused)
    digits = max(len(f"{one.count:,}") for one in kernels.refused)
    return [
        line("refused:", indent=2),
        *(line(f"{one.backend:<{widest}}  {one.count:>{digits},}  {one.reason}", indent=4, hang=4)
          for one in kernels.refused),
    ]  # fmt: skip


def kernels_of_ranks(reports: Sequence[PlanReport]) -> Document:
    """The choice of every rank: once, where it is the same for all of them but for the layers' sizes of memory."""
    found = [report.kernels for report in reports if report.kernels is not None]
    if not found:
        return []
    if all((one.chosen, one.refused) == (found[0].chosen, found[0].refused) for one in found):
        return [Gap(), *kernels_document(found[0], title="Kernels of every rank")]
    document: Document = []
    for number, one in enumerate(found):
        document += [Gap(), *kernels_document(one, title=f"Kernels of rank {number}")]
    return document


def memory_text(reports: Sequence[PlanReport]) -> str:
    """Which sizes of memory hold each of these ranks: "sm90 80 GB class: does not fit, 141 GB class: fits"."""
    found = [report.kernels for report in reports if report.kernels is not None]
    if not found or not found[0].memory:
        return ""
    classes = (MemoryReport(gb=size.gb, fits=all(one.memory[at].fits for one in found))
               for at, size in enumerate(found[0].memory))  # fmt: skip
    texts = (f"{size.gb} GB class: {'fits' if size.fits else 'does not fit'}" for size in classes)
    return f"{found[0].device} " + ", ".join(texts)
