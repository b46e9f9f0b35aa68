"""Documents as HTML: the same blocks that `text` and `md` draw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from fp8load_cli.render.document import Block, Cell, Code, Document, Facts, Gap, Heading, Line, Table, style_of, text_of
from fp8load_cli.render.html.markup import Markup, breakable, element, sort_key, text

FILTER_FROM = 4
"""Rows from which a table of names can be filtered."""


def draw_blocks(document: Document) -> Markup:
    """The blocks, one after the other."""
    return Markup("\n".join(part for block in document for part in _draw(block)))


def _span(cell: Cell) -> Markup:
    style = style_of(cell)
    shown = breakable(text_of(cell))
    return element("span", shown, class_=style) if style else shown


def _draw(block: Block) -> Iterator[Markup]:
    match block:
        case Gap():
            return
        case Code():
            yield element("pre", "\n".join(block.lines))
        case Heading():
            remark = element("small", block.remark) if block.remark else Markup("")
            yield element("h3", text(block.title), Markup(" "), remark)
        case Line():
            yield element("p", *(_span(span) for span in block.spans))
        case Facts():
            yield facts(block.rows)
        case Table():
            yield table(block)
        case _:
            assert_never(block)


def facts(rows: tuple[tuple[str, Cell], ...]) -> Markup:
    """Labels and what stands beside them; a row without a label goes on with the one above."""
    return element("dl", *(part for label, cell in rows for part in (element("dt", label), element("dd", _span(cell)))))


def table(block: Table) -> Markup:
    """A table that sorts by its headings; a long one of names has a field to filter it. Empty columns are left out."""
    shown = [at for at in range(len(block.columns)) if any(text_of(row[at]) for row in block.rows)]
    head = (_heading(block.columns[at].title, right=block.columns[at].right) for at in shown)
    body = (element("tr", *(_cell(row[at], right=block.columns[at].right) for at in shown)) for row in block.rows)
    made = element(
        "div",
        element("table", element("thead", element("tr", *head)), element("tbody", *body), class_="sortable"),
        class_="scroll",
    )
    if len(block.rows) < FILTER_FROM or not any(column.cut for column in block.columns):
        return made
    hint = f"filter {len(block.rows):,} rows"
    field = Markup(f'<input type="search" placeholder="{text(hint)}" aria-label="filter rows">')
    return element("div", field, made, class_="filtered")


def _heading(title: str, *, right: bool) -> Markup:
    return element("th", title, scope="col", **({"class_": "right"} if right else {}))


def _cell(cell: Cell, *, right: bool) -> Markup:
    key = sort_key(text_of(cell))
    attributes = {"class_": "right"} if right else {}
    return element("td", _span(cell), **attributes, **({"data_key": key} if key else {}))
