"""The page: a heading with the verdict, facts, findings, scales, modules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import TYPE_CHECKING

from fp8load.errors import Fp8LoadError
from fp8load.report import InspectReport, VerifyReport
from fp8load.survey import Survey, survey_of
from fp8load.version import VERSION
from fp8load_cli.render.document import Facts, Heading, Table
from fp8load_cli.render.html.blocks import draw_blocks
from fp8load_cli.render.html.charts import scale_section
from fp8load_cli.render.html.findings import finding_section
from fp8load_cli.render.html.markup import Markup, element, text
from fp8load_cli.render.units import plural, size
from fp8load_cli.render.views.inspect import inspect_document

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""Nothing is fetched, whatever a name in the checkpoint says."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the page shows besides findings: None for what cannot be had of this checkpoint, or was not read."""

    summary: InspectReport | None
    survey: Survey | None

    @classmethod
    def of(cls, checkpoint: Checkpoint, *, values: bool) -> Parts:
        """Facts and modules, and with `values` the scales. Files that cannot be read have findings instead."""
        try:
            summary = checkpoint.summary()
        except Fp8LoadError:
            return cls(None, None)
        return cls(summary, survey_of(checkpoint) if values else None)


def draw(parts: Parts, verify: VerifyReport | None) -> str:
    """The whole file."""
    source = verify.source if verify is not None else parts.summary.source if parts.summary is not None else None
    title = "fp8load" if source is None else source.id
    sections = list(_sections(parts, verify))
    contents = element("nav", *(element("a", name, href=f"#{name.lower()}") for name, _ in sections))
    body = [_heading(title, parts, verify), contents]
    body += [element("section", element("h2", name), content, id=name.lower()) for name, content in sections]
    body.append(element("footer", f"fp8load {VERSION}"))
    folder = files("fp8load_cli.render.html")
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = (folder / "page.js").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)} - fp8load</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body) + f"\n</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )  # fmt: skip


def _heading(title: str, parts: Parts, verify: VerifyReport | None) -> Markup:
    shown: list[str] = [element("h1", title)]
    if verify is not None:
        verdict = "ok" if verify.ok else "fail"
        found = verify.summary
        counts = [plural(found.error, "error"), plural(found.warning, "warning"), f"{found.info} info",
                  f"{plural(len(found.passed), 'rule')} passed"]  # fmt: skip
        counts += [f"{len(found.not_run)} not run"] if found.not_run else []
        tp = f", tp {', '.join(map(str, verify.tp))}" if verify.tp else ""
        read = f"level {verify.level}{tp}: {size(verify.read.nbytes)} read"
        badge = element("span", verdict, class_=f"badge {'ok' if verify.ok else 'error'}")
        shown.append(element("p", badge, Markup(" "), ", ".join(counts), Markup("<br>"), element("small", read)))
    elif parts.summary is not None:
        shown.append(element("p", parts.summary.format_title))
    return element("header", *shown)


def _without_read(block: Facts | Table) -> Facts | Table:
    """Facts without what was read: the heading says what verify has read, which is more."""
    if isinstance(block, Table):
        return block
    return replace(block, rows=tuple(row for row in block.rows if row[0] != "Read"))


def _sections(parts: Parts, verify: VerifyReport | None) -> Iterator[tuple[str, Markup]]:
    """Names and contents; of the blocks of `inspect` facts and dtypes come first, modules last."""
    blocks = [] if parts.summary is None else inspect_document(parts.summary)
    at = next((at for at, block in enumerate(blocks) if isinstance(block, Heading)), len(blocks))
    if blocks:
        facts = [block for block in blocks[:at] if isinstance(block, Facts | Table)]
        yield "Facts", draw_blocks([_without_read(block) if verify is not None else block for block in facts])
    if verify is not None:
        yield "Findings", finding_section(verify)
    if parts.survey is not None:
        yield "Scales", scale_section(parts.survey)
    if blocks:
        yield "Modules", draw_blocks(blocks[at:])
