"""VerifyReport as a document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from fp8load.errors import Severity
from fp8load.report import Finding, VerifyReport
from fp8load.rules.registry import rule_names
from fp8load_cli.render.document import Cell, Column, Document, Facts, Gap, Line, Span, Table, line
from fp8load_cli.render.units import plural, size
from fp8load_cli.render.views.against import against_document
from fp8load_cli.render.views.inspect import title
from fp8load_cli.run import explained_by_rule

_FAMILIES = {
    "F8L0": "files and index",
    "F8L1": "configuration",
    "F8L2": "weights and scales",
    "F8L3": "ignore lists",
    "F8L4": "fused scales",
    "F8L5": "shapes and splits",
    "F8L6": "encodings",
    "F8L7": "scale values",
    "F8L8": "weight values",
    "F8L9": "KV cache, heads",
    "F8C0": "ComfyUI files",
    "F8T0": "targets",
}


_LOUDEST = list(Severity)
"""People read what is wrong first; JSON keeps the order of the codes."""


def verify_document(report: VerifyReport, *, hidden: int = 0, brief: bool = False, detail: bool = False) -> Document:
    """What was checked, each finding, the verdict. `brief` gives findings only, `detail` also the facts of notes."""
    document: Document = []
    if not brief:
        tp = f"tp {','.join(map(str, report.tp))}" if report.tp else ""
        targets = ", ".join(filter(None, (tp, *report.engines, report.gpu)))
        read = f": {size(report.read.nbytes)} read" if report.read.requests else ""
        document += [title(report.source, f"level {report.level}{read}", targets), Gap()]
        document += [_families(report), Gap()]
        if report.against is not None:
            document += [*against_document(report.against), Gap()]
    for finding in sorted(report.findings, key=lambda finding: _LOUDEST.index(finding.severity)):
        document += _finding(finding, detail=detail)
    if hidden:
        document += [line(Span(f"{plural(hidden, 'finding')} more; --max-findings hides them", "dim")), Gap()]
    if brief:
        return document[:-1] if document and isinstance(document[-1], Gap) else document
    if report.findings and not isinstance(document[-1], Gap):
        document.append(Gap())
    return [*document, *_verdict(report)]


def _families(report: VerifyReport) -> Table:
    """One row for each family of rules: what became of its rules."""
    summary = report.summary
    found: dict[str, Counter[str]] = {}
    for finding in report.findings:
        found.setdefault(finding.code[:4], Counter())[finding.severity] += 1
    lists = (summary.passed, summary.not_run, summary.crashed)
    passed, not_run, crashed = (Counter(code[:4] for code in codes) for codes in lists)
    rows = []
    for family in sorted({*found, *passed, *not_run, *crashed}):
        counts = found.get(family, Counter())
        rows.append((
            family, _FAMILIES.get(family, ""),
            _count(passed[family], "passed", "ok"), _counted(counts["error"], "error"),
            _counted(counts["warning"], "warning"), _count(counts["info"], "info", "info"),
            _count(not_run[family], "not run", "dim"), _count(crashed[family], "crashed", "error"),
        ))  # fmt: skip
    leaving = (2, 0, 0, 1, 3, 0)  # which of the counts leave a narrow terminal first: not run, passed, info
    columns = (Column("", drop=4), Column("", cut=True), *(Column("", right=True, drop=drop) for drop in leaving))
    return Table(columns, tuple(rows))


def _count(number: int, word: str, style: str) -> Cell:
    return Span(f"{number} {word}", style) if number else ""


def _counted(number: int, word: str) -> Cell:
    return Span(plural(number, word), word) if number else ""


def _finding(finding: Finding, *, detail: bool) -> Document:
    times = f"{finding.count:,} x " if finding.count > 1 else ""
    label = Span(f"{finding.severity}[{finding.code}]", str(finding.severity))
    head: tuple[Cell, ...] = (label, f" {finding.name}: {times}{finding.message}")
    if finding.severity is Severity.INFO and not detail:
        return [line(*head, f" ({finding.pattern})" if finding.pattern else "", hang=2)]
    rows = tuple(_facts(finding))
    where = ": ".join(filter(None, (_files(finding), finding.pattern if finding.file != finding.pattern else "")))
    document: Document = [line(*head, hang=2)]
    if where:
        document.append(line(Span("  --> ", "dim"), where, hang=6))
    if rows:
        document.append(Facts(rows, indent=3, mark="="))
    return [*document, Gap()]


def _files(finding: Finding) -> str:
    """The file, or where a folded finding reaches into several: the first, and how many others."""
    others = len(finding.files) - 1
    return f"{finding.file} and {plural(others, 'other')}" if others > 0 else finding.file


def _facts(finding: Finding) -> Iterator[tuple[str, Cell]]:
    hint = finding.hint or explained_by_rule(finding.code)
    texts = (("expected", finding.expected), ("got", finding.got), ("siblings", finding.siblings), ("hint", hint),
             ("fix", finding.fix or ""))  # fmt: skip
    yield from ((label, text) for label, text in texts if text)
    if finding.explained_by:
        yield "see", f"{finding.explained_by}, which explains this"


def verdict_line(report: VerifyReport) -> Line:
    """ok or fail, and how many findings of each severity and rules of each fate there are."""
    summary = report.summary
    counts = [
        Span(plural(summary.error, "error"), "error") if summary.error else "",
        Span(plural(summary.warning, "warning"), "warning") if summary.warning else "",
        f"{summary.info} info" if summary.info else "",
        f"{plural(len(summary.passed), 'rule')} passed",
        f"{len(summary.not_run)} not run" if summary.not_run else "",
        Span(f"{len(summary.crashed)} crashed", "error") if summary.crashed else "",
    ]
    spans: list[Cell] = [Span("ok", "ok") if report.ok else Span("fail", "error"), ": "]
    for number, part in enumerate(part for part in counts if part):
        spans += [", ", part] if number else [part]
    return line(*spans, hang=2)


def _verdict(report: VerifyReport) -> Document:
    summary = report.summary
    document: Document = [verdict_line(report)]
    if summary.not_run:
        document.append(line(Span(f"not run: {', '.join(summary.not_run)}", "dim"), indent=2, hang=2))
    if summary.crashed:
        crashed = f"crashed: {', '.join(summary.crashed)}; nothing is proved"
        document.append(line(Span(crashed, "error"), indent=2, hang=2))
    if report.legal_tp and report.ok:
        document.append(line("splits over tp " + ", ".join(map(str, report.legal_tp)), indent=2, hang=2))
    return [*document, *_portability(report)]


def _portability(report: VerifyReport) -> Document:
    """One line: the engines against which nothing is known, and the others with the rules that say why."""
    if not report.portability or not (report.ok or report.engines):
        return []
    names = dict(rule_names())
    loads = [engine.title for engine in report.portability if engine.loads]
    others = [f"{engine.title} ({', '.join(f'{code} {names[code]}' for code in engine.codes)})"
              for engine in report.portability if not engine.loads]  # fmt: skip
    parts = [f"nothing known against {', '.join(loads)}" if loads else "", f"not {', '.join(others)}" if others else ""]
    return [line("engines: " + "; ".join(filter(None, parts)), indent=2, hang=2)]


def statistics_document(report: VerifyReport) -> Document:
    """How often each rule fired."""
    counts: dict[tuple[str, str, str], int] = {}
    for finding in report.findings:
        key = (finding.code, finding.name, str(finding.severity))
        counts[key] = counts.get(key, 0) + finding.count
    if not counts:
        return [line(Span("no findings", "ok"))]
    columns = (Column("count", right=True), Column("code"), Column("severity"), Column("name", cut=True))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = tuple((f"{count:,}", code, Span(severity, severity), name) for (code, name, severity), count in ordered)
    return [Table(columns, rows, indent=0)]
