"""DoctorReport as a document."""

from __future__ import annotations

from fp8load_cli.render.document import Column, Document, Gap, Span, Table, line
from fp8load_cli.reports import DoctorReport

_OPTIONAL = ("triton",)
_STYLES = {"ok": "ok", "warn": "warning", "no": "dim", "broken": "error"}


def doctor_document(report: DoctorReport) -> Document:
    """Versions, devices, and one row for each check."""
    versions = ", ".join(f"{name} {version or 'missing'}"
                         for name, version in report.versions.items() if version or name not in _OPTIONAL)  # fmt: skip
    checks = tuple((check.name, Span(check.state, _STYLES[check.state]), check.text) for check in report.checks)
    return [
        line(Span(f"fp8load {report.tool.version}", "bold"), f"  python {report.python}  {report.platform}", hang=2),
        line(versions, indent=2),
        *(line(device, indent=2) for device in report.devices),
        Gap(),
        Table((Column(""), Column(""), Column("", cut=True)), checks),
    ]
