"""Documents as Markdown, to be pasted into an issue or a model card."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import assert_never

from fp8load.patterns import escape
from fp8load_cli.render.document import Block, Cell, Code, Document, Facts, Gap, Heading, Line, Table, style_of, text_of

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~])")


def draw(document: Document) -> str:
    """The document as Markdown."""
    lines: list[str] = []
    for block in document:
        if lines and lines[-1] and not isinstance(block, Gap):
            lines.append("")
        lines += _draw(block)
    return "\n".join(lines).strip("\n") + "\n" if lines else ""


def quote(text: str) -> str:
    """Text that stands for itself in Markdown and in the HTML within it."""
    return _SPECIAL.sub(r"\\\1", escape(text)).replace("&", "&amp;").replace("@", "&#64;")


def _span(cell: Cell) -> str:
    text = quote(text_of(cell))
    bold = style_of(cell) in ("bold", "error", "warning") and text.strip()
    return f"**{text.strip()}**" if bold else text


def _draw(block: Block) -> Iterator[str]:
    match block:
        case Gap():
            yield ""
        case Code():
            fence = "`" * max([3, *(len(run) + 1 for text in block.lines for run in re.findall("`+", text))])
            yield fence + "text"
            yield from (escape(text) for text in block.lines)
            yield fence
        case Heading():
            yield f"### {quote(block.title)}"
            if block.remark:
                yield from ("", quote(block.remark))
        case Line():
            yield "".join(_span(span) for span in block.spans)
        case Facts():
            yield from (f"- **{quote(label)}** {_span(cell)}" for label, cell in block.rows)
        case Table():
            yield from _table(block)
        case _:
            assert_never(block)


def _table(table: Table) -> Iterator[str]:
    shown = [at for at in range(len(table.columns)) if any(text_of(row[at]) for row in table.rows)]
    yield "| " + " | ".join(quote(table.columns[at].title) for at in shown) + " |"
    yield "|" + "|".join("--:" if table.columns[at].right else "---" for at in shown) + "|"
    for row in table.rows:
        yield "| " + " | ".join(_span(row[at]) for at in shown) + " |"
