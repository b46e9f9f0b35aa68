"""Documents as text. In a pipe: no colour, no cuts, no width; on a terminal: colour, and fitted to its width."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_never

from fp8load.patterns import escape
from fp8load_cli.render.document import (
    Block,
    Cell,
    Code,
    Document,
    Facts,
    Gap,
    Heading,
    Line,
    Span,
    Table,
    style_of,
    text_of,
)

_CODES = {"bold": "1", "dim": "2", "ok": "32", "error": "1;31", "warning": "33", "info": "36"}
_SEPARATOR = "  "
_LEAST = 16  # a name cut shorter than this says nothing
_WANTED = 28  # columns that may go do so before a name is cut shorter than this
_ELLIPSIS = "…"  # only terminals see it: a pipe gets whole names


@dataclass(frozen=True, slots=True)
class Style:
    """How to draw: width of the terminal (None: no limit), and whether with colour."""

    width: int | None = None
    colour: bool = False

    def paint(self, text: str, style: str) -> str:
        """Text in its style, if there is colour."""
        code = _CODES.get(style) if self.colour else None
        return f"\x1b[{code}m{text}\x1b[0m" if code and text else text


def draw(document: Document, style: Style) -> str:
    """The document as text that ends in a newline; empty for an empty document."""
    lines = [drawn.rstrip() for block in document for drawn in _draw(block, style)]
    return "\n".join(lines) + "\n" if lines else ""


def _draw(block: Block, style: Style) -> Iterator[str]:
    match block:
        case Gap():
            yield ""
        case Code():
            yield from (" " * block.indent + escape(text) for text in block.lines)
        case Heading():
            remark = (Span(f"  {block.remark}", "dim"),) if block.remark else ()
            yield from _line(Line((Span(block.title, "bold"), *remark), hang=2), style)
        case Line():
            yield from _line(block, style)
        case Facts():
            yield from _facts(block, style)
        case Table():
            yield from _table(block, style)
        case _:
            assert_never(block)


def _line(block: Line, style: Style) -> Iterator[str]:
    pad = " " * block.indent
    plain = "".join(escape(text_of(span)) for span in block.spans)
    if style.width is None or len(pad) + len(plain) <= style.width:
        yield pad + "".join(style.paint(escape(text_of(span)), style_of(span)) for span in block.spans)
        return
    # A wrapped line keeps the style of its first span only: that is where the severity stands.
    head = escape(text_of(block.spans[0]))
    for number, part in enumerate(_wrap(plain, style.width - block.indent, block.hang)):
        if number == 0 and part.startswith(head):
            part = style.paint(head, style_of(block.spans[0])) + part[len(head) :]  # noqa: PLW2901 - painted in place
        yield pad + part


def _wrap(text: str, width: int, hang: int) -> list[str]:
    return textwrap.wrap(text, max(width, 20), subsequent_indent=" " * hang, break_on_hyphens=False) or [""]


def _facts(block: Facts, style: Style) -> Iterator[str]:
    label_width = max([block.min_label, *(len(label) for label, _ in block.rows)])
    lead = " " * block.indent + (block.mark + " " if block.mark else "")
    for label, cell in block.rows:
        head = f"{lead}{label:<{label_width}}{_SEPARATOR}"
        text = escape(text_of(cell))
        parts = [text] if style.width is None else _wrap(text, style.width - len(head), 0)
        for number, part in enumerate(parts):
            shown = style.paint(head, "dim") if number == 0 else " " * len(head)
            yield shown + style.paint(part, style_of(cell))


def _table(table: Table, style: Style) -> Iterator[str]:
    rows = [tuple(column.title for column in table.columns), *table.rows]
    texts = [[escape(text_of(cell)) for cell in row] for row in rows]
    shown = _columns_that_fit(table, texts, style)
    widths = {at: max(len(row[at]) for row in texts) for at in shown}
    _shrink(table, widths, style)
    for number, (row, cells) in enumerate(zip(texts, rows, strict=True)):
        if number == 0 and not any(row):
            continue
        parts = []
        for at in shown:
            text = cut(row[at], widths[at])
            aligned = text.rjust(widths[at]) if table.columns[at].right else text.ljust(widths[at])
            parts.append(style.paint(aligned, "dim" if number == 0 else _style_at(cells, at)))
        yield " " * table.indent + _SEPARATOR.join(parts)


def _style_at(cells: tuple[Cell, ...], at: int) -> str:
    return style_of(cells[at])


def _columns_that_fit(table: Table, texts: list[list[str]], style: Style) -> list[int]:
    """Positions of the columns that are shown: on a narrow terminal those with the largest `drop` go first."""
    shown = [at for at in range(len(table.columns)) if any(row[at] for row in texts[1:])]
    if style.width is None:
        return shown

    def least(columns: list[int]) -> int:
        widths = {at: max(len(row[at]) for row in texts) for at in columns}
        cuts = (min(width, _WANTED) if table.columns[at].cut else width for at, width in widths.items())
        return table.indent + sum(cuts) + len(_SEPARATOR) * (len(columns) - 1)

    while least(shown) > style.width and any(table.columns[at].drop for at in shown):
        shown.remove(max(shown, key=lambda at: table.columns[at].drop))
    return shown


def _shrink(table: Table, widths: dict[int, int], style: Style) -> None:
    """Take the width that is missing from the columns that may be cut, the widest first."""
    if style.width is None:
        return
    excess = table.indent + sum(widths.values()) + len(_SEPARATOR) * (len(widths) - 1) - style.width
    while excess > 0:
        candidates = [at for at in widths if table.columns[at].cut and widths[at] > _LEAST]
        if not candidates:
            return
        widest = max(candidates, key=lambda at: widths[at])
        widths[widest] -= 1
        excess -= 1


def cut(text: str, width: int) -> str:
    """Text in at most `width` columns, its middle left out: both ends of a tensor's name matter."""
    if len(text) <= width:
        return text
    if width <= len(_ELLIPSIS):
        return text[:width]
    keep = width - len(_ELLIPSIS)
    tail = keep * 2 // 3
    return text[: keep - tail] + _ELLIPSIS + text[len(text) - tail :]
