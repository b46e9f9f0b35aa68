"""Findings as cards: what is wrong, where, what to do, and the text of the rule."""

from __future__ import annotations

from collections.abc import Iterator

from fp8load.errors import Severity
from fp8load.report import Finding, VerifyReport
from fp8load.rules.base import Rule
from fp8load.rules.registry import rules
from fp8load_cli.render.html.blocks import facts
from fp8load_cli.render.html.markup import Markup, breakable, element
from fp8load_cli.render.units import plural

_LOUDEST = list(Severity)


def finding_section(report: VerifyReport) -> Markup:
    """Every finding, the worst first; and what was not asked."""
    known = {rule.code: rule for rule in rules()}
    ordered = sorted(report.findings, key=lambda finding: _LOUDEST.index(finding.severity))
    cards = [_card(finding, known.get(finding.code)) for finding in ordered]
    if not cards:
        cards = [element("p", "No findings.", class_="ok")]
    return Markup("\n".join([*cards, *_rest(report)]))


def _card(finding: Finding, rule: Rule | None) -> Markup:
    times = f"{finding.count:,} × " if finding.count > 1 else ""
    head = element(
        "h3",
        element("span", finding.severity.value, class_=f"badge {finding.severity.value}"), Markup(" "),
        element("code", finding.code), Markup(" "), f"{times}{finding.message}", Markup(" "),
        element("small", finding.name),
    )  # fmt: skip
    files = ", ".join(finding.files[:3]) + (", ..." if len(finding.files) > 3 else "")
    rows = (
        ("where", finding.pattern), ("file", files),
        ("expected", finding.expected), ("got", finding.got), ("siblings", finding.siblings),
        ("hint", finding.hint), ("fix", finding.fix or ""),
        ("see", f"{finding.explained_by}, which explains this" if finding.explained_by else ""),
    )  # fmt: skip
    parts = [head, facts(tuple((label, said) for label, said in rows if said)), *_about(rule), *_names(finding)]
    return element("article", *parts, class_=f"finding {finding.severity.value}")


def _about(rule: Rule | None) -> Iterator[Markup]:
    if rule is not None:
        texts = facts((("checks", rule.what), ("why", rule.why), ("cure", rule.fix)))
        yield element("details", element("summary", f"About {rule.code}"), texts)


def _names(finding: Finding) -> Iterator[Markup]:
    """The tensors by name, where the pattern does not say it all."""
    names = finding.tensors or finding.modules
    if len(names) > 1:
        more = finding.count - len(names)
        title = plural(len(names), "name") + (f" of {finding.count:,}" if more > 0 else "")
        listed = element("ul", *(element("li", breakable(name)) for name in names))
        yield element("details", element("summary", title), listed)


def _rest(report: VerifyReport) -> Iterator[Markup]:
    summary = report.summary
    lists = (("crashed", summary.crashed), ("not run", summary.not_run), ("passed", summary.passed))
    rows = tuple((f"{title} {len(codes)}", ", ".join(codes)) for title, codes in lists if codes)
    if rows:
        yield element("details", element("summary", "Rules without a finding"), facts(rows))
